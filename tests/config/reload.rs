//! What a reload finds changed, and when that takes hold.

use pgweir::config::{Applies, Change, diff};

use super::{LEAST, config, with};

fn changes(old: &str, new: &str) -> Vec<(String, Option<String>, Option<String>, Applies)> {
    let parts = |change: Change| (change.path, change.old, change.new, change.applies);
    diff(&config(old), &config(new)).into_iter().map(parts).collect()
}

#[test]
fn nothing_changes_where_a_default_is_written_out() {
    assert_eq!(changes(LEAST, &with("[defaults]\nqueue_timeout = \"5s\"\n")), []);
}

#[test]
fn each_change_says_when_it_applies() {
    let new = with("[listen]\nhttp = \"127.0.0.1:9632\"\n[defaults]\nmax_queue = 7\n[tcp.server]\nkeepalive_count = 5\n");
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        changes(LEAST, &new),
        [
            ("defaults.max_queue".to_owned(), text("1000"), text("7"), Applies::AtOnce),
            ("listen.http".to_owned(), text("0.0.0.0:9632"), text("127.0.0.1:9632"), Applies::Restart),
            ("tcp.server.keepalive_count".to_owned(), text("3"), text("5"), Applies::NextConnection),
        ]
    );
}

#[test]
fn a_changed_password_is_told_and_not_shown() {
    let new = LEAST.replace("hunter2", "correct horse");
    let told = diff(&config(LEAST), &config(&new));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].path, "users.app.password");
    let shown = format!("{told:?} {}", told[0]);
    assert!(!shown.contains("hunter2") && !shown.contains("horse"), "{shown}");
}

#[test]
fn a_secret_files_new_content_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let text = LEAST.replace("password = \"hunter2\"", &format!("password_file = \"{}\"", secret.display()));
    std::fs::write(&secret, "one\n").unwrap();
    let old = config(&text);
    std::fs::write(&secret, "two\n").unwrap();
    let new = config(&text);
    assert_eq!(old.users["app"].password.as_ref().unwrap().reveal(), "one");
    let paths: Vec<String> = diff(&old, &new).into_iter().map(|change| change.path).collect();
    assert_eq!(paths, ["users.app.password"]);
}

#[test]
fn the_order_of_tenants_is_a_setting_too() {
    let one = with("[tenants.a]\nmatch = { user = \"*\" }\n[tenants.b]\nmatch = { user = \"a*\" }\n");
    let other = with("[tenants.b]\nmatch = { user = \"a*\" }\n[tenants.a]\nmatch = { user = \"*\" }\n");
    let paths: Vec<String> = changes(&one, &other).into_iter().map(|change| change.0).collect();
    assert_eq!(paths, ["tenants"]);
}

#[test]
fn what_is_gone_and_what_is_new_are_both_told() {
    let told = changes(&with("[databases.old]\nupstream = \"main\"\n"), &with("[databases.new]\nupstream = \"main\"\n"));
    let has = |path: &str, old: Option<&str>, new: Option<&str>| {
        told.iter().any(|change| change.0 == path && change.1.as_deref() == old && change.2.as_deref() == new)
    };
    assert!(has("databases.old.upstream", Some("main"), None), "{told:?}");
    assert!(has("databases.new.upstream", None, Some("main")), "{told:?}");
}
