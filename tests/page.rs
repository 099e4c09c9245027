//! The page for people, in a real browser.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::process::Command;

use harness::{PATIENCE, Postgres, Proxy, Wire, eventually};

/// What a browser has made of a page after so many seconds, which pass as fast as it can.
async fn seen(url: String, seconds: u32) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = tokio::task::spawn_blocking(move || {
        Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--virtual-time-budget={}", seconds * 1000))
            .arg(url)
            .output()
            .expect("chromium, which tests/setup installs")
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The text between two words of a page.
fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).unwrap_or_else(|| panic!("no {from} .. {to} in {text}")).0
}

#[tokio::test]
async fn a_browser_shows_what_is_counted() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg)
        .user("other", "secret")
        .set("users.other.server_user", "app")
        .set("users.other.server_password", "secret")
        .tenant("shop", "match = { user = \"app\" }")
        .tenant("\"<b id='x'>&amp;\"", "match = { user = \"other\" }\nmax_clients = 1")
        .start()
        .await;
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    for _ in 0..5 {
        client.query("SELECT 1").await;
    }
    client.query("CREATE TEMP TABLE x (y int)").await;
    let _only = Wire::login(&proxy, "other", "secret", "app").await.unwrap();
    assert!(Wire::login(&proxy, "other", "secret", "app").await.is_err(), "its tenant is full");

    let address = proxy.http_address();
    let page = seen(format!("http://{address}/"), 6).await;
    assert!(between(&page, "id=\"about\"", "</span>").contains("ready"), "{page}");
    let upstreams = between(&page, "id=\"upstreams\"", "<h2>");
    assert!(upstreams.contains(">main<") && upstreams.contains("● ok") && upstreams.contains("<dd>2 of 10</dd>"), "{upstreams}");
    let charts = between(&page, "id=\"charts\"", "<h2>");
    assert_eq!(charts.matches("<svg").count(), 4, "{charts}");
    // One look tells no rate yet: this is what the proxy remembers.
    eventually("the proxy remembers", PATIENCE, async || proxy.http_get("/history").await.body.contains("age_seconds")).await;
    let page = seen(format!("http://{address}/"), 1).await;
    let transactions = between(&page, "Transactions per second", "</section>");
    assert!(!transactions.contains("transactions <b>–</b>") && transactions.contains("<path d=\"M"), "{transactions}");
    let tenants = between(&page, "<table id=\"tenants\">", "</table>");
    assert!(tenants.contains(">shop<") && tenants.contains("&lt;b id='x'&gt;&amp;amp;<"), "names are texts, whatever they hold: {tenants}");
    assert!(between(&page, "<table id=\"pins\">", "</table>").contains("<td>temp</td><td>1</td><td>1</td>"), "{page}");
    assert!(between(&page, "<table id=\"faults\">", "</table>").contains("<td>too_many_clients</td><td>1</td>"), "{page}");

    let recent = between(&page, "<table id=\"recent\">", "</table>");
    assert!(
        recent.contains("<td>too_many_clients</td><td>1</td><td>&lt;b id='x'&gt;&amp;amp;</td><td>other</td><td>app</td><td>127.0.0.1:"),
        "{recent}"
    );

    let page = seen(format!("http://{address}/#tenant=shop"), 6).await;
    assert!(between(&page, "<table id=\"recent\">", "</table>").contains("none"), "another's faults are not its own");
    assert!(between(&page, "id=\"whose\"", "</span>").contains("tenant shop"), "{page}");
    assert!(between(&page, "<table id=\"faults\">", "</table>").contains("none"), "another's refusals are not its own");
    let page = seen(format!("http://{address}/#tenant=nobody"), 3).await;
    assert!(between(&page, "id=\"about\"", "</span>").contains("there is no such tenant"), "{page}");
}
