//! Each mistake that a writer makes, with the line and the remedy that are told.

use pgweir::config::{Mistake, Place};

use super::{LEAST, load, with};

/// Checks that a text has exactly the expected errors: what is written at the place, a part of what is told, a part of the remedy.
fn expect(text: &str, expected: &[(&str, &str, &str)]) {
    let mistakes = match load(text, &[("SET", "value")]) {
        Ok(loaded) => panic!("accepted: {text}\n{:#?}", loaded.warnings),
        Err(mistakes) => mistakes,
    };
    let errors: Vec<&Mistake> = mistakes.iter().filter(|mistake| mistake.is_error()).collect();
    assert_eq!(errors.len(), expected.len(), "{text}\n{errors:#?}");
    for (mistake, (place, what, remedy)) in errors.iter().zip(expected) {
        assert!(mistake.what.contains(what), "{what:?} is not in: {mistake}");
        let told = mistake.remedy.as_deref().unwrap_or_default();
        assert!(told.contains(remedy), "{remedy:?} is not in: {mistake}");
        assert_eq!(written_at(text, &mistake.place), *place, "{mistake}");
    }
}

/// What the file says at the place of a mistake.
fn written_at(text: &str, place: &Place) -> String {
    match place {
        Place::Line(at) => {
            let line = text.lines().nth(at.line - 1).unwrap_or_default();
            line.chars().skip(at.column - 1).take(at.width).collect()
        }
        Place::File(_) => "(file)".to_owned(),
        Place::Variable(name) => name.clone(),
    }
}

#[test]
fn unknown_keys_are_told_with_what_was_meant() {
    expect(&with("[clients]\nmax_client = 5\n"), &[("max_client", "unknown key `max_client`", "did you mean `max_clients`?")]);
    expect(&with("[listne]\nhttp = \"x\"\n"), &[("listne", "unknown key `listne`", "did you mean `listen`?")]);
    expect(&with("[tenants.a]\nmatch = { usr = \"app\" }\n"), &[("usr", "unknown key `usr`", "did you mean `user`?")]);
    expect(&with("[console]\ncolour = 1\n"), &[("colour", "unknown key", "known here: admin_users, stats_users")]);
}

#[test]
fn wrong_values_are_told_with_what_fits() {
    expect(&with("[defaults]\nqueue_timeout = \"5 sec\"\n"), &[("\"5 sec\"", "no unit of time", "\"250ms\", \"5s\"")]);
    expect(&with("[defaults]\nqueue_timeout = 5\n"), &[("5", "is a duration, not a number", "\"5s\"")]);
    expect(&with("[defaults]\nqueue_timeout = 0\n"), &[("0", "is a duration", "write \"0\"")]);
    expect(&with("[process]\nread_buffer = \"32KB\"\n"), &[("\"32KB\"", "not a size", "KiB")]);
    expect(&with("[process]\nread_buffer = \"1KiB\"\n"), &[("\"1KiB\"", "cannot be 1KiB", "from \"4KiB\"")]);
    expect(&with("[defaults]\nmax_queue = \"7\"\n"), &[("\"7\"", "is a number, not a text", "write 7 without quotes")]);
    expect(&with("[defaults]\nmax_queue = -1\n"), &[("-1", "`max_queue` cannot be -1", "from 0 to 1000000")]);
    expect(&with("[defaults]\nmax_queue = 1.5\n"), &[("1.5", "not a number with a fraction", "write a number")]);
    expect(&with("[log]\nformat = \"jsn\"\n"), &[("\"jsn\"", "`format` cannot be \"jsn\"", "did you mean \"json\"?")]);
    expect(&with("[log]\nformat = \"csv\"\n"), &[("\"csv\"", "cannot be", "write \"text\" or \"json\"")]);
    expect(&with("[log]\nlevel = \"loud\"\n"), &[("\"loud\"", "no level", "\"debug\"")]);
    expect(&with("[listen]\npostgres = [\"0.0.0.0:6432\", \"0.0.0.0\"]\n"), &[("\"0.0.0.0\"", "has no port", "IP address and a port")]);
    expect(&with("[listen]\npostgres = \"0.0.0.0:6432\"\n"), &[("\"0.0.0.0:6432\"", "is a list", "write [\"0.0.0.0:6432\"]")]);
    expect(&with("[auth]\ntrust_networks = [\"10.1.2.3/8\"]\n"), &[("\"10.1.2.3/8\"", "right of its mask", "\"10.0.0.0/8\"")]);
    expect(&with("[[listen]]\n"), &[("[[listen]]", "is a table, not a list", "[listen]")]);
}

#[test]
fn syntax_errors_have_their_line_too() {
    let mistakes = load("[listen]\nhttp = \n", &[]).unwrap_err();
    let Place::Line(at) = &mistakes[0].place else { panic!("no line: {mistakes:?}") };
    assert_eq!(at.line, 2);
    let twice = with("[users.app]\npassword = \"y\"\n");
    let mistakes = load(&twice, &[]).unwrap_err();
    assert!(mistakes[0].what.contains("duplicate key"), "{mistakes:?}");
    assert_eq!(written_at(&twice, &mistakes[0].place), "app");
    assert!(!format!("{}", mistakes[0]).contains("hunter2"));
}

#[test]
fn names_must_lead_somewhere() {
    expect(&with("[databases.b]\n"), &[("b", "the database `b` has no upstream", "add upstream = \"main\"")]);
    expect(&with("[databases.b]\nupstream = \"mian\"\n"), &[("\"mian\"", "no upstream `mian`", "did you mean \"main\"?")]);
    expect(&with("[tenants.t]\nmatch = { user = \"app\" }\nupstream = \"x\"\n"), &[("\"x\"", "no upstream `x`", "\"main\"")]);
    expect(&with("[tenants.t]\nmax_clients = 1\n"), &[("t", "nobody ever belongs to the tenant `t`", "match")]);
    expect(&with("[tenants.t]\nmatch = { user = \"ap\" }\n"), &[("\"ap\"", "no user fits `ap`", "did you mean \"app\"?")]);
    expect(&with("[tenants.t]\nmatch = { database = \"shop_*\" }\n"), &[("\"shop_*\"", "no database fits", "[databases]")]);
    expect(&with("[tenants.default]\nmatch = { user = \"app\" }\n"), &[("default", "pgweir uses itself", "[defaults]")]);
    expect(&with("[console]\nadmin_users = [\"opps\"]\n"), &[("\"opps\"", "no user `opps`", "add [users.opps]")]);
    let same = "[tenants.a]\nmatch = { user = \"app\" }\n[tenants.b]\nmatch = { user = \"app\" }\n";
    expect(&with(same), &[("match", "the tenant `a` above has the same rule", "differ")]);
    expect("", &[("(file)", "there is no upstream", "PGWEIR_UPSTREAM=")]);
}

#[test]
fn secrets_are_given_once_and_exist() {
    let user = |lines: &str| with(&format!("[users.b]\n{lines}\n"));
    expect(&user(""), &[("b", "neither a password nor a verifier", "PGWEIR_USERS__B__PASSWORD")]);
    expect(&user("password = \"x\"\npassword_env = \"SET\""), &[("\"SET\"", "`password` and `password_env` are both set", "keep one")]);
    expect(&user("password_env = \"UNSET\""), &[("\"UNSET\"", "the variable UNSET is not set", "export UNSET")]);
    expect(&user("password_file = \"/nonexistent/x\""), &[("\"/nonexistent/x\"", "/nonexistent/x cannot be read", "may read")]);
    expect(&user("password_env = \"$SET\""), &[("\"$SET\"", "not the name of a variable", "without `$`")]);
    let misplaced = load(&user("password_env = \"hunter-2\""), &[]).unwrap_err();
    assert!(!misplaced.iter().any(|mistake| mistake.to_string().contains("hunter")), "{misplaced:?}");
    expect(&user("password = \"\""), &[("\"\"", "is empty", "give one")]);
    expect(&user("verifier = \"SCRAM-SHA-1$x\""), &[("\"SCRAM-SHA-1$x\"", "not what PostgreSQL stores", "pg_authid")]);
    let shown = load(&user("verifier = \"hunter2\""), &[]).unwrap_err();
    assert!(!shown.iter().any(|mistake| mistake.to_string().contains("hunter2")), "{shown:?}");
    let asked = LEAST.replace("host =", "auth_user = \"asker\"\nhost =") + "[users.b]\nmay_name_tenant = true\n";
    assert!(load(&asked, &[]).is_ok(), "the server can be asked for this user's verifier");
}

#[test]
fn files_must_be_there_and_tls_complete() {
    let tls = |lines: &str| with(&format!("[tls.client]\n{lines}\n"));
    expect(&tls("mode = \"require\""), &[("\"require\"", "TLS needs `cert` and `key`", "name both")]);
    expect(
        &tls("mode = \"prefer\"\ncert = \"/nonexistent/c\"\nkey = \"/nonexistent/k\""),
        &[("\"/nonexistent/c\"", "cannot be read", "may read"), ("\"/nonexistent/k\"", "cannot be read", "may read")],
    );
    let server = |lines: &str| with(&format!("[tls.server]\n{lines}\n"));
    expect(&server("mode = \"verify-full\""), &[("\"verify-full\"", "without a `ca`", "ca = \"system\"")]);
    expect(&server("mode = \"require\"\nca = \"system\""), &[("\"system\"", "without the host's name", "verify-full")]);
    expect(&server("negotiation = \"direct\""), &[("\"direct\"", "no way back", "require")]);
    expect(&with("[upstreams.b]\nhost = \"b\"\ntls = { mode = \"verify-ca\" }\n"), &[("\"verify-ca\"", "without a `ca`", "ca")]);
    expect(&with("[auth]\nmethod = \"cert\"\n"), &[("\"cert\"", "not asked for the certificate", "client_certificates")]);
    expect(&with("[auth]\nmethod = \"cleartext\"\n"), &[("\"cleartext\"", "over TLS only", "[tls.client]")]);
}

#[test]
fn tokens_take_no_password_and_want_a_verified_server() {
    let token = LEAST.replace("password =", "server_auth = \"rds-iam\"\npassword =");
    expect(&format!("{token}server_password = \"x\"\n"), &[("\"rds-iam\"", "with a token, and `server_password`", "keep one")]);
    expect(&token.replace("rds-iam", "iam"), &[("\"iam\"", "`server_auth` cannot be \"iam\"", "rds-iam")]);
    let doubtful = load(&token, &[]).unwrap();
    assert!(doubtful.warnings[0].what.contains("certificate and name are not verified"), "{:?}", doubtful.warnings);
    let verified = load(&format!("{token}[tls.server]\nmode = \"verify-full\"\nca = \"system\"\n"), &[]).unwrap();
    assert!(verified.warnings.is_empty(), "{:?}", verified.warnings);
}

#[test]
fn a_budget_is_shared_by_somebody_who_can_log_in() {
    let main = |lines: &str| LEAST.replace("host =", &format!("{lines}\nhost ="));
    let shared = load(&main("share_budget = true"), &[]).unwrap().config;
    let share = shared.upstreams["main"].share.as_ref().unwrap();
    assert_eq!((share.user.as_str(), share.dbname.as_str()), ("app", "postgres"), "there is only one");
    expect(&main("share_user = \"app\""), &[("\"app\"", "it is not shared", "share_budget = true")]);
    expect(&main("share_budget = true\nshare_user = \"ap\""), &[("\"ap\"", "no user `ap`", "did you mean \"app\"?")]);
    expect(&main("share_budget = true\nlimit = \"adaptive\""), &[("\"adaptive\"", "cannot have an adaptive limit", "\"observe\"")]);
    let one = "share_budget = true\ncontrol_connections = 1";
    expect(&main(one), &[("1", "leaves none for the slots", "at least 2")]);
    let asks = "share_budget = true\nauth_user = \"asker\"\ncontrol_connections = 2";
    expect(&main(asks), &[("2", "leaves none for the slots", "at least 3")]);
    let two = main("share_budget = true") + "[users.b]\npassword = \"x\"\n";
    expect(&two, &[("true", "not said as whom", "share_user = \"app\" or \"b\"")]);
    let verifier = "[users.b]\nverifier = \"md5a3c2f1f8a3c2f1f8a3c2f1f8a3c2f1f8\"\n";
    let none = main("share_budget = true\nshare_user = \"b\"") + verifier;
    expect(&none, &[("\"b\"", "nothing to log in with as `b`", "server_password")]);
}

#[test]
fn numbers_must_agree_with_each_other() {
    let main = |line: &str| LEAST.replace("host =", &format!("{line}\nhost ="));
    expect(&main("min_idle = 50"), &[("50", "more than `max_connections` (40)", "at most 40")]);
    expect(&main("auth_query = \"select 1\"\nauth_user = \"a\""), &[("\"select 1\"", "does not ask about the user", "$1")]);
    expect(&main("auth_password = \"x\""), &[("\"x\"", "needs `auth_user`", "name the role")]);
    expect(&main("server_connect_timeout = \"0\""), &[("\"0\"", "cannot be off", "\"5s\"")]);
    expect(&with("[process]\nshutdown_grace = \"30s\"\n"), &[("\"30s\"", "not shorter than `shutdown_timeout`", "leave time")]);
    expect(&with("[listen]\nhttp = \"0.0.0.0:6432\"\n"), &[("\"0.0.0.0:6432\"", "listened on twice", "its own port")]);
    expect(&with("[upstreams.b]\nhost = \"b:5432\"\n"), &[("\"b:5432\"", "a host and a port in one", "`port`")]);
    expect(&with("[upstreams.b]\n"), &[("b", "the upstream `b` has no host", "host")]);
}

#[test]
fn a_guarantee_larger_than_the_budget_is_an_error() {
    let tenants = "[tenants.a]\nmatch = { user = \"app\" }\nreserved_server_connections = 30\n\
                   [tenants.b]\nmatch = { database = \"app\" }\nreserved_server_connections = 11\n";
    expect(&with(tenants), &[("11", "41 connections of `main` are guaranteed to tenants, but its budget is 40", "max_connections")]);
    let cap = "[tenants.a]\nmatch = { user = \"app\" }\nreserved_server_connections = 5\nmax_server_connections = 4\n";
    expect(&with(cap), &[("5", "more than `max_server_connections` (4)", "at most 4")]);
    // On upstreams of their own they do not add up.
    let apart = format!("{tenants}upstream = \"second\"\n[upstreams.second]\nhost = \"x\"\n");
    assert!(load(&with(&apart), &[]).is_ok());
    let large = load(&with("[defaults]\nmax_server_connections = 400\n"), &[]).unwrap();
    let twice = load(&with("[upstreams.other]\nhost = \"db.internal\"\n"), &[]).unwrap();
    assert!(twice.warnings[0].what.contains("`main` and `other` are the same server"), "{:?}", twice.warnings);
    assert!(large.warnings[0].what.contains("more than the whole budget of `main` (40)"), "{:?}", large.warnings);
}

#[test]
fn sql_over_http_is_set_up_safely_or_not_at_all() {
    assert!(load(&with("[listen]\napi = \"127.0.0.1:8443\"\n"), &[]).unwrap().warnings.is_empty());
    let open = "[listen]\napi = \"0.0.0.0:8443\"\n";
    expect(&with(open), &[("\"0.0.0.0:8443\"", "needs TLS beyond this machine", "[tls.client]")]);
    assert!(load(&with(&format!("{open}[api]\nallow_plaintext = true\n")), &[]).is_ok());
    let wrong = "[api]\ndatabase = \"ap\"\nmax_response = \"1KiB\"\ntransaction_idle_timeout = \"0\"\n";
    expect(
        &with(wrong),
        &[
            ("\"ap\"", "there is no database `ap`", "did you mean \"app\"?"),
            ("\"1KiB\"", "`max_response` cannot be 1024 bytes", "4KiB"),
            ("\"0\"", "`transaction_idle_timeout` cannot be off", "3m"),
        ],
    );
}

#[test]
fn tokens_need_keys_that_nobody_else_can_have_put_there() {
    let tokens = |lines: &str| with(&format!("[api.tokens]\n{lines}"));
    expect(&tokens("audience = \"pgweir\"\n"), &[("tokens", "there are no keys to check tokens with", "jwks_file")]);
    expect(
        &tokens("jwks_url = \"http://issuer.example/keys\"\naudience = \"x\"\n"),
        &[("\"http://issuer.example/keys\"", "keys of their own", "https://")],
    );
    let both = "jwks_url = \"https://issuer.example/keys\"\njwks_file = \"Cargo.toml\"\n";
    expect(&tokens(both), &[("\"https://issuer.example/keys\"", "both set", "keep one of them")]);
    let loaded = load(&tokens("jwks_url = \"https://issuer.example/keys\"\n"), &[]).unwrap();
    assert!(loaded.warnings[0].what.contains("issued for other services"), "{:?}", loaded.warnings);
}

#[test]
fn whoever_shows_a_token_needs_keys_an_issuer_an_audience_and_tls() {
    let tls = "[tls.client]\nmode = \"require\"\ncert = \"Cargo.toml\"\nkey = \"Cargo.toml\"\n";
    let user = "[users.f]\nserver_password = \"x\"\ntoken_subjects = [\"role/*\"]\n";
    let keys = "[auth.tokens]\njwks_url = \"https://issuer.example/keys\"\n";
    let whole = format!("{keys}issuer = \"https://issuer.example\"\naudience = \"x\"\n");
    let loaded = load(&with(&format!("{tls}{user}{whole}")), &[]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    expect(&with(&format!("{user}{whole}")), &[("[\"role/*\"]", "over TLS only, and TLS is off", "[tls.client]")]);
    expect(&with(&format!("{tls}{user}")), &[("[\"role/*\"]", "no keys to check tokens with", "below [auth.tokens]")]);
    expect(&with(&format!("{tls}{user}{keys}")), &[("tokens", "for whom they must be", "`issuer` and `audience`")]);
    let both = format!("{tls}{whole}[users.f]\npassword = \"x\"\ntoken_subjects = [\"role/*\"]\n");
    expect(&with(&both), &[("[\"role/*\"]", "has no password here", "`server_password`")]);
    let alone = load(&with(&format!("{tls}{whole}[users.f]\ntoken_subjects = [\"role/*\"]\n")), &[]).unwrap();
    assert!(alone.warnings[0].what.contains("nothing to log in to the server with as `f`"), "{:?}", alone.warnings);
}

#[test]
fn every_mistake_is_told_at_once_in_the_order_of_the_file() {
    let text =
        "[upstreams.main]\nhst = \"db\"\nmax_connections = \"x\"\n[databases.app]\nupstream = \"main\"\npool_mode = \"txn\"\n[users.app]\n";
    expect(
        text,
        &[
            ("hst", "unknown key `hst`", "`host`"),
            ("\"x\"", "is a number", "from 1"),
            ("\"txn\"", "cannot be", "\"transaction\""),
            ("app", "neither a password", "password"),
        ],
    );
}
