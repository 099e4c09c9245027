//! Where settings come from: the file, the environment, an upstream's URL; and what the program then sees.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use pgweir::config::{ClientTlsMode, Config, Endpoint, ListenAddress, Loaded, Mistake, Place, PoolMode, SslMode, parse_str};
use proptest::prelude::*;

use super::{LEAST, config, load, variables, with};

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = config(LEAST);
    let limits = &config.tenants[0].limits;
    assert_eq!(config.tenants[0].name, "default");
    assert_eq!((limits.max_server_connections, limits.weight, limits.max_clients, limits.max_queue), (0, 1, 10_000, 1_000));
    assert_eq!(limits.queue_timeout, Some(Duration::from_secs(5)));
    assert_eq!(limits.transaction_timeout, None);
    assert_eq!(limits.idle_transaction_timeout, Some(Duration::from_secs(30)));
    // An idle close kills a node-postgres process without an error listener.
    assert_eq!(limits.client_idle_timeout, None);
    assert_eq!(config.client_tcp.idle_keepalive, None);
    let main = &config.upstreams["main"];
    assert_eq!((main.max_connections, main.control_connections), (40, 2));
    assert_eq!(main.server_idle_timeout, Some(Duration::from_mins(1)));
    assert_eq!(main.server_lifetime, Some(Duration::from_hours(1)));
    assert_eq!(main.endpoints, [Endpoint::Tcp { host: "db.internal".to_owned(), port: 5432 }]);
    assert_eq!(config.databases["app"].pool_mode, PoolMode::Transaction);
    assert_eq!(config.client_tls.mode, ClientTlsMode::Disable);
    assert_eq!(config.listen.http, Some(([0, 0, 0, 0], 9632).into()));
    assert_eq!(config.listen.api, None);
    assert_eq!(config.users["app"].server_user, "app");
    assert_eq!(config.users["app"].server_password.as_ref().unwrap().reveal(), "hunter2");
}

#[test]
fn the_first_rule_in_the_file_that_fits_names_the_tenant() {
    // Named so that neither the alphabet nor the length gives the order of the file.
    let config = config(&with(
        r#"
[users.acme_app]
password = "x"
[tenants.zebra]
match = { user = "acme_*", application_name = "batch*" }
[tenants.acme]
match = { user = "acme_*" }
max_clients = 7
[tenants.beta]
match = { tls_name = "*.beta.example" }
"#,
    ));
    let name = |user, application, tls| config.tenants[config.tenant_for(user, "app", application, tls)].name.as_str();
    assert_eq!(name("acme_app", "batch-7", None), "zebra");
    assert_eq!(name("acme_app", "web", None), "acme");
    assert_eq!(name("app", "web", Some("db.beta.example")), "beta");
    assert_eq!(name("app", "web", None), "default");
    let acme = &config.tenants[config.tenant_named("acme").unwrap()];
    assert_eq!((acme.limits.max_clients, acme.limits.max_queue), (7, 1_000));
    assert_eq!(config.tenant_named("nobody"), None);
}

#[test]
fn the_wildcard_database_keeps_the_clients_word() {
    let config = config(&with("[databases.\"*\"]\nupstream = \"main\"\npool_mode = \"session\"\n"));
    assert_eq!(config.database("app").unwrap().dbname.as_deref(), Some("app"));
    assert_eq!(config.database("other").unwrap().dbname, None);
    assert_eq!(config.database("other").unwrap().pool_mode, PoolMode::Session);
}

fn loaded(text: &str, environment: &[(&str, &str)]) -> Loaded {
    load(text, environment).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

#[test]
fn variables_take_the_place_of_what_the_file_says() {
    let config = loaded(
        &with("[upstreams.second-one]\nhost = \"db2\"\n"),
        &[
            ("PGWEIR_LISTEN__POSTGRES", "127.0.0.1:7000, unix:/run/pgweir"),
            ("PGWEIR_LISTEN__HTTP", "127.0.0.1:9632"),
            ("PGWEIR_UPSTREAMS__MAIN__MAX_CONNECTIONS", "12"),
            ("PGWEIR_UPSTREAMS__SECOND_ONE__HOST", "db3"),
            ("PGWEIR_DATABASES__*__UPSTREAM", "main"),
            ("PGWEIR_USERS__NEW__PASSWORD", "secret"),
            ("PGWEIR_USERS__APP__MAY_NAME_TENANT", "true"),
            ("PGWEIR_TENANTS__ACME__MATCH__USER", "new"),
            ("PGWEIR_UPSTREAMS__MAIN__TLS__MODE", "require"),
            ("PGWEIR_API__ACCESS_KEYS__0__ID", "AKID"),
            ("PGWEIR_API__ACCESS_KEYS__0__SECRET", "s"),
            ("PGWEIR_API__ACCESS_KEYS__0__USER", "app"),
            ("PGWEIR_LOG", "debug"),
        ],
    )
    .config;
    assert_eq!(config.listen.postgres.len(), 2);
    assert_eq!(config.listen.postgres[1], ListenAddress::Unix("/run/pgweir".into()));
    assert_eq!(config.listen.unix_port(), 7000);
    assert_eq!(config.upstreams["main"].max_connections, 12);
    assert_eq!(config.upstreams["main"].tls.mode, SslMode::Require);
    assert_eq!(config.upstreams["second-one"].endpoints, [Endpoint::Tcp { host: "db3".to_owned(), port: 5432 }]);
    assert!(config.database("anything").is_some());
    assert_eq!(config.tenant_for("new", "app", "", None), 1);
    assert!(config.users["app"].may_name_tenant);
    assert_eq!(config.api.access_keys[0].id, "AKID");
    assert_eq!(config.log.level, "debug");
}

fn told_of(result: Result<Loaded, Vec<Mistake>>) -> String {
    let mistakes = result.expect_err("the mistake was accepted");
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    let wrong = |name: &str, value: &str| told_of(load(LEAST, &[(name, value)]));
    let told = wrong("PGWEIR_UPSTREAMS__MAIN__MAX_CONNECTIONS", "forty");
    assert!(told.starts_with("PGWEIR_UPSTREAMS__MAIN__MAX_CONNECTIONS: error: "), "{told}");
    assert!(wrong("PGWEIR_DEFAULTS__QUEUE_TIMEOUT", "5").contains("no unit"));
    assert!(wrong("PGWEIR_DATABASES__APP__POOL_MODE", "transactions").contains("did you mean \"transaction\"?"));
    let told = wrong("PGWEIR_LISTEN__HTPP", "127.0.0.1:1");
    assert!(told.contains("PGWEIR_LISTEN__HTPP") && told.contains("did you mean HTTP"), "{told}");
    let told = wrong("PGWEIR_UPSTREAMS__MAIN", "x");
    assert!(told.contains("it names a table"), "{told}");
}

#[test]
fn strange_variables_are_warned_of_and_kubernetes_own_are_not() {
    let environment = [
        ("PGWEIR_SERVICE_HOST", "10.0.0.1"),
        ("PGWEIR_PORT_6432_TCP", "tcp://10.0.0.1:6432"),
        ("PGWEIR_CONFIG", "/etc/pgweir.toml"),
        ("PGWEIR_SECRET_OF_APP", "hunter3"),
        ("PGWEIR_TYPO", "1"),
    ];
    let text = LEAST.replace("password = \"hunter2\"", "password_env = \"PGWEIR_SECRET_OF_APP\"");
    let loaded = loaded(&text, &environment);
    let places: Vec<Place> = loaded.warnings.into_iter().map(|warning| warning.place).collect();
    assert_eq!(places, [Place::Variable("PGWEIR_TYPO".to_owned())]);
    assert_eq!(loaded.config.users["app"].password.as_ref().unwrap().reveal(), "hunter3");
}

fn from_url(url: &str) -> Result<Loaded, Vec<Mistake>> {
    Config::load(None, None, &variables(&[("PGWEIR_UPSTREAM", url)]))
}

#[test]
fn an_upstreams_url_is_a_complete_set_up() {
    let loaded = from_url("postgres://us%40er:p%2Fa:ss@db.internal:5433/shop?sslmode=require&application_name=lambda&connect_timeout=3");
    let Loaded { config, warnings } = loaded.unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    assert_eq!(warnings, []);
    let main = &config.upstreams["main"];
    assert_eq!(main.endpoints, [Endpoint::Tcp { host: "db.internal".to_owned(), port: 5433 }]);
    assert_eq!(main.tls.mode, SslMode::Require);
    assert_eq!(main.application_name, "lambda");
    assert_eq!(main.server_connect_timeout, Duration::from_secs(3));
    let user = &config.users["us@er"];
    assert_eq!(user.password.as_ref().unwrap().reveal(), "p/a:ss");
    assert_eq!(user.server_password.as_ref().unwrap().reveal(), "p/a:ss");
    assert_eq!(config.database("shop").unwrap().dbname.as_deref(), Some("shop"));
    assert_eq!(config.database("other").unwrap().upstream, "main");
    assert!(!format!("{config:?}").contains("p/a:ss"));
}

#[test]
fn urls_name_addresses_and_sockets_as_for_libpq() {
    let endpoint = |url: &str| {
        let loaded = from_url(url).unwrap_or_else(|mistakes| panic!("{url}: {mistakes:#?}"));
        loaded.config.upstreams["main"].endpoints[0].clone()
    };
    let tcp = |host: &str, port| Endpoint::Tcp { host: host.to_owned(), port };
    assert_eq!(endpoint("postgresql://a:b@[::1]:6000/c"), tcp("::1", 6000));
    assert_eq!(endpoint("postgres://a:b@10.0.0.1"), tcp("10.0.0.1", 5432));
    assert_eq!(endpoint("postgres://a:b@%2Frun%2Fpostgresql/c"), Endpoint::Unix("/run/postgresql/.s.PGSQL.5432".into()));
    assert_eq!(endpoint("postgres:///c?host=/tmp&port=5433&user=a&password=b"), Endpoint::Unix("/tmp/.s.PGSQL.5433".into()));
    assert_eq!(endpoint("postgres://a:p@ss@h/c"), tcp("h", 5432));
}

#[test]
fn a_wrong_url_is_told_without_its_password() {
    for (url, told) in [
        ("mysql://a:hunter2@h/c", "not a PostgreSQL URL"),
        ("postgres://a@h/c", "names no password"),
        ("postgres://h/c", "names no user"),
        ("postgres://a:hunter2@/c", "names no host"),
        ("postgres://a:hunter2@h/c?sslmod=require", "did you mean `sslmode`?"),
        ("postgres://a:hunter2@h/c?channel_binding=require", "leave it out"),
        ("postgres://a:hunter2@h/c?sslmode=required", "did you mean \"require\"?"),
        ("postgres://a:hunter2@h:port/c", "port is not a number"),
        ("postgres://a:hunter2@h:70000/c", "from 1 to 65535"),
        ("postgres://a:hunter2%ff@h/c", "no UTF-8"),
        ("postgres://a:hunter2@h/c?sslmode=verify-full", "`sslrootcert`"),
    ] {
        let found = told_of(from_url(url));
        assert!(found.contains("PGWEIR_UPSTREAM: error: ") && found.contains(told), "{url}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
        assert_eq!(found.matches("error: ").count(), 1, "{url}: {found}");
    }
}

#[test]
fn a_url_and_a_file_do_not_contradict_each_other_silently() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgweir.toml");
    let url = Some("postgres://a:b@h/c");
    std::fs::write(&file, "[defaults]\nmax_queue = 5\n").unwrap();
    let loaded = Config::load(Some(&file), url, &variables(&[])).unwrap();
    assert_eq!(loaded.config.tenants[0].limits.max_queue, 5);
    std::fs::write(&file, LEAST).unwrap();
    let told = told_of(Config::load(Some(&file), url, &variables(&[])));
    assert!(told.contains("--upstream: error: both this URL and the file set `upstreams.main.host`"), "{told}");
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = parse_str(&text);
        let _ = from_url(&text);
        let _ = from_url(&format!("postgres://{text}"));
    }

    /// Near misses reach deeper than noise does: the least file with one piece cut out and another put in.
    #[test]
    fn no_damage_panics(at in 0..LEAST.len(), length in 0..40_usize, put in "[\\[\\]{}=\"'.a-z0-9\\n -]{0,12}") {
        let end = (at + length).min(LEAST.len());
        let text = format!("{}{put}{}", &LEAST[..at], &LEAST[end..]);
        if let Err(mistakes) = parse_str(&text) {
            prop_assert!(!mistakes.is_empty());
            let told: String = mistakes.iter().map(ToString::to_string).collect();
            prop_assert!(!told.is_empty());
        }
    }
}

#[test]
fn thousands_of_tenants_load_in_a_moment() {
    let mut text = LEAST.to_owned();
    for n in 0..3_000 {
        write!(text, "[users.u{n}]\npassword = \"p\"\n[tenants.t{n}]\nmatch = {{ user = \"u{n}\" }}\n").unwrap();
    }
    #[expect(clippy::disallowed_methods, reason = "a test has a clock of its own")]
    let begun = Instant::now();
    let config = config(&text);
    assert_eq!(config.tenants[config.tenant_for("u2999", "app", "", None)].name, "t2999");
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
}

#[test]
fn no_depth_overflows_the_stack() {
    let deep = 100_000;
    for text in [
        format!("{}a = 1", "a.".repeat(deep)),
        format!("[{}a]", "a.".repeat(deep)),
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("a = {}", "{a=".repeat(deep)),
    ] {
        assert!(parse_str(&text).is_err());
    }
}
