//! `safeguard user ..` through the program: what is said, stored and refused. Passwords come by standard input.

use crate::stores;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// Runs `safeguard user` in a folder with a line on standard input: exit code, stdout, stderr.
fn user(dir: &Path, line: &str, arguments: &str) -> (i32, String, String) {
    let mut child = stores::program(dir, ["user"].into_iter().chain(arguments.split(' ')))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that needs no password does not read.
    let _ = child.stdin.take().unwrap().write_all(line.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().expect("an exit code"),
        text(output.stdout),
        text(output.stderr),
    )
}

/// What is on standard input, what is typed, and what comes of it.
const STEPS: &[(&str, &str, i32, &str, &str)] = &[
    (
        "",
        "list",
        1,
        "",
        "ERROR:  58P01: there is no store in safeguard-data\nHINT:  --data-dir names its folder\n",
    ),
    (
        "s3cret\n",
        "add ada --role analyst",
        0,
        "",
        "user \"ada\" can log in as analyst\n",
    ),
    (
        "pass word",
        "add bob --role reader --password-stdin",
        0,
        "",
        "user \"bob\" can log in as reader\n",
    ),
    (
        "other\n",
        "add ada --role admin",
        1,
        "",
        "ERROR:  42710: user \"ada\" already exists\nHINT:  safeguard user password changes a password, safeguard user role a role\n",
    ),
    (
        "\n",
        "add eve --role reader",
        1,
        "",
        "ERROR:  28P01: a password cannot be empty\n",
    ),
    (
        "",
        "add eve --role reader",
        1,
        "",
        "ERROR:  28P01: a password cannot be empty\n",
    ),
    (
        "",
        "list",
        0,
        "name  role\nada   analyst\nbob   reader\n",
        "",
    ),
    (
        "",
        "role bob admin",
        0,
        "",
        "user \"bob\" is admin from the next login on\n",
    ),
    (
        "changed\n",
        "password ada",
        0,
        "",
        "user \"ada\" has another password\n",
    ),
    (
        "\n",
        "password ada",
        1,
        "",
        "ERROR:  28P01: a password cannot be empty\n",
    ),
    (
        "x\n",
        "password eve",
        1,
        "",
        "ERROR:  42704: user \"eve\" does not exist\nHINT:  safeguard user list lists the users\n",
    ),
    (
        "",
        "list",
        0,
        "name  role\nada   analyst\nbob   admin\n",
        "",
    ),
    ("", "remove bob", 0, "", "user \"bob\" can log in no more\n"),
    (
        "",
        "remove bob",
        1,
        "",
        "ERROR:  42704: user \"bob\" does not exist\nHINT:  safeguard user list lists the users\n",
    ),
    (
        "",
        "list --data-dir safeguard-data",
        0,
        "name  role\nada   analyst\n",
        "",
    ),
];

#[tokio::test]
async fn users_come_change_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut verifiers = Vec::new();
    // Whether there is a schema nobody knows before it is asked for, which makes one.
    let steps = STEPS.iter().skip(usize::from(stores::are_shared()));
    for (line, arguments, code, out, err) in steps {
        let said = user(dir.path(), line, arguments);
        let expected = (*code, (*out).to_owned(), (*err).to_owned());
        assert_eq!(said, expected, "user {arguments}");
        if *code == 0 || !verifiers.is_empty() {
            // As a running server has it, opened anew or not.
            let store = stores::open(&dir.path().join("safeguard-data"));
            let ada = store.user("ada").await.unwrap();
            verifiers.push(ada.unwrap().verifier);
        }
    }
    assert!(
        verifiers
            .iter()
            .all(|v| v.starts_with("SCRAM-SHA-256$4096:"))
    );
    verifiers.dedup();
    assert_eq!(verifiers.len(), 2, "one password, then another");
    let data = dir.path().join("safeguard-data");
    assert!(stores::users_hold(&data, "SCRAM-SHA-256$4096:").await);
    for secret in ["s3cret", "changed", "pass word"] {
        let found = stores::users_hold(&data, secret).await;
        assert!(!found, "{secret} is in the store");
    }
}

#[test]
fn wrong_calls_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(64);
    for arguments in [
        "add",
        "add ada",
        "add ada --role root",
        "add ada --role reader --password secret",
        "add ada secret --role reader",
        "role ada",
        "password",
        "remove",
        "list ada",
    ] {
        let (code, _, err) = user(dir.path(), "", arguments);
        assert_eq!(code, 2, "user {arguments}: {err}");
    }
    for name in [long.as_str(), "a\u{7}b", ""] {
        let (code, _, err) = user(dir.path(), "x\n", &format!("add --role reader {name}"));
        assert_eq!(code, 1, "{err}");
        assert!(
            err.starts_with("ERROR:  42602: a user's name has 1 to 63 bytes"),
            "{err}"
        );
    }
    let (code, _, err) = user(
        dir.path(),
        &format!("{}\n", "x".repeat(1_025)),
        "add ada --role reader",
    );
    assert_eq!(
        (code, err.as_str()),
        (1, "ERROR:  28P01: a password has at most 1024 bytes\n")
    );
}
