//! What each path answers.

use super::*;

#[test]
fn metrics_are_prometheus_text() {
    let proxy = Proxy::new();
    proxy.metrics.tenant(0, "acme", "app").unwrap().transactions.add(42);
    beside(&proxy, EVER, |address| async move {
        let (head, body) = ask(address, "GET", "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("\npgweir_transactions_total{tenant=\"acme\"} 42\n"), "{body}");
    });
}

#[test]
fn status_is_json() {
    beside(&Proxy::new(), EVER, |address| async move {
        let (head, body) = ask(address, "GET", "/status").await;
        assert!(head.contains("content-type: application/json"), "{head}");
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&status["state"], &status["tenants"][0]["name"]), (&"ready".into(), &"acme".into()));
    });
}

#[test]
fn pressure_is_json_by_upstream_and_tenant() {
    let proxy = Proxy::new();
    let pressure = |pressure| Pressure {
        state: PressureState::Queueing,
        pressure,
        queue_wait_p99_ms: 12.5,
        retry_after_ms: 40,
        suggested_concurrency: None,
        clients: 100,
    };
    proxy.upstreams.borrow_mut().push(UpstreamState {
        name: "main".to_owned(),
        limit: 20,
        suggested_limit: None,
        proxies: None,
        queue: Vec::new(),
        pressure: pressure(0.75),
        tenants: vec![("acme".to_owned(), pressure(0.5))],
        pools: Vec::new(),
    });
    beside(&proxy, EVER, |address| async move {
        let (head, body) = ask(address, "GET", "/pressure").await;
        assert!(head.contains("content-type: application/json"), "{head}");
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        let main = &page["upstreams"]["main"];
        assert_eq!((&main["state"], &main["pressure"], &main["limit"]), (&"queueing".into(), &0.75.into(), &20.into()));
        let acme = &main["tenants"]["acme"];
        assert_eq!((&acme["pressure"], &acme["retry_after_ms"], &acme["clients"]), (&0.5.into(), &40.into(), &100.into()));
        assert!(acme["suggested_concurrency"].is_null() && acme["queue_wait_p99_ms"] == 12.5, "{body}");
    });
}

#[test]
fn readiness_says_why_not() {
    let proxy = Proxy::new();
    beside(&proxy, EVER, |address| {
        let proxy = &proxy;
        async move {
            let (head, body) = ask(address, "GET", "/readyz").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert_eq!(body, "ready\n");
            *proxy.readiness.borrow_mut() = Err("draining".to_owned());
            let (head, body) = ask(address, "GET", "/readyz").await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert_eq!(body, "draining\n");
            let (head, body) = ask(address, "GET", "/healthz").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "a draining proxy is alive: {head}");
            assert_eq!(body, "ok\n");
        }
    });
}

#[test]
fn the_root_lists_the_endpoints() {
    beside(&Proxy::new(), EVER, |address| async move {
        let (head, body) = ask(address, "GET", "/").await;
        assert!(head.contains("content-type: text/html"), "{head}");
        for path in ["metrics", "status", "pressure", "healthz", "readyz"] {
            assert!(body.contains(&format!("<a href=\"{path}\">")), "{path}");
        }
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        let elsewhere = ["http://", "https://", "//", "@import", "url("]
            .map(|word| body.replace("http://www.w3.org/2000/svg", "").matches(word).count());
        let comments = body.lines().filter(|line| line.trim_start().starts_with("//")).count();
        assert_eq!(elsewhere, [0, 0, comments, 0, 0], "nothing comes from elsewhere");
    });
}

#[test]
fn the_pages_numbers_are_of_all_or_of_one_tenant() {
    let proxy = Proxy::new();
    proxy.metrics.tenant(0, "acme", "app").unwrap().transactions.add(42);
    proxy.metrics.set_tenants(&["über & co".to_owned()]);
    beside(&proxy, EVER, |address| async move {
        let read = async |path: &str| serde_json::from_str::<serde_json::Value>(&ask(address, "GET", path).await.1).unwrap();
        let all = read("/live").await;
        assert_eq!(
            (&all["all"]["transactions"], &all["tenant_count"], &all["tenants"][0]["name"]),
            (&42.into(), &2.into(), &"acme".into())
        );
        assert_eq!(read("/live?tenant=acme").await["all"]["transactions"], 42);
        assert_eq!(read("/live?x=1&tenant=%C3%BCber%20%26%20co").await["all"]["transactions"], 0);
        let (head, _) = ask(address, "GET", "/live?tenant=nobody").await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    });
}

#[test]
fn head_answers_like_get_without_the_body() {
    beside(&Proxy::new(), EVER, |address| async move {
        for path in ["/", "/healthz", "/readyz"] {
            let (get, body) = ask(address, "GET", path).await;
            let (head, nothing) = ask(address, "HEAD", path).await;
            let without_date = |head: &str| head.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n");
            assert_eq!(without_date(&head), without_date(&get));
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            assert_eq!(nothing, "");
        }
        let (head, nothing) = ask(address, "HEAD", "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && nothing.is_empty(), "{head}");
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    beside(&Proxy::new(), EVER, |address| async move {
        for path in ["/nothing", "/metrics/", "/../etc/passwd", "//metrics"] {
            let (head, _) = ask(address, "GET", path).await;
            assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
        }
        let (head, _) = ask(address, "GET", "/healthz?verbose=1").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "a query changes nothing: {head}");
    });
}

#[test]
fn only_get_and_head_are_allowed() {
    beside(&Proxy::new(), EVER, |address| async move {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "NONSENSE"] {
            let (head, _) = ask(address, method, "/metrics").await;
            assert!(head.starts_with("HTTP/1.1 405 "), "{method}: {head}");
            assert!(head.contains("allow: GET, HEAD"), "{method}: {head}");
        }
    });
}

#[test]
fn a_connection_serves_one_request_after_another() {
    beside(&Proxy::new(), EVER, |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
            assert!(answer(&mut stream).await.ends_with("\r\n\r\nok\n"));
        }
    });
}

#[test]
fn an_old_client_is_answered_and_left() {
    beside(&Proxy::new(), EVER, |address| async move {
        let answer = say(address, b"GET /healthz HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    });
}
