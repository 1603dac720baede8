//! Settings of the server: the example file, what is wrong, which place wins, what is exposed.

use super::*;

const EXAMPLE: &str = include_str!("../../examples/serve.toml");

fn config(text: &str) -> Result<ServeConfig, String> {
    let options = ServeOptions::parse(text)?;
    ServeConfig::new(options).map_err(|e| e.to_string())
}

#[test]
fn the_example_lists_every_key_and_says_the_defaults() {
    let defaults = ServeConfig::new(ServeOptions::default()).unwrap();
    assert_eq!(config(EXAMPLE), Ok(defaults));
    // Keys without a default stand behind a number sign.
    let all: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let table: toml::Table = toml::from_str(&all).unwrap();
    let mut listed: Vec<&str> = table.keys().map(String::as_str).collect();
    let mut known = ServeOptions::KEYS.to_vec();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
    ServeOptions::parse(&all).unwrap();
    for key in ServeOptions::KEYS {
        let at = EXAMPLE.find(&format!("{key} = "));
        let at = at.or_else(|| EXAMPLE.find(&format!("{key}."))).unwrap();
        let before = EXAMPLE[..at].trim_end_matches("# ").lines().last().unwrap();
        assert!(before.starts_with("# "), "{key} is not explained");
    }
}

#[test]
fn roots_are_folders_and_urls() {
    let options = ServeOptions::parse("content_roots = ['s3://posts/public/', '/']").unwrap();
    let config = ServeConfig::new(options).unwrap();
    assert_eq!(config.engine.content_roots, Some(vec!["/".into()]));
    assert_eq!(
        config.engine.content_urls,
        Some(vec!["s3://posts/public/".to_owned()])
    );
}

#[test]
fn defaults_are_safe() {
    let config = ServeConfig::new(ServeOptions::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:5433");
    assert!(!config.tls_required && !config.allow_insecure);
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    assert_eq!(config.engine.content_roots, Some(vec![here]));
    assert_eq!(config.engine.content_urls, Some(Vec::new()));
    assert_eq!(config.max_connections, 100);
    assert_eq!(config.statement_timeout, None);
    assert_eq!(config.startup_timeout, Duration::from_secs(60));
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (
            "lisen = 'x'",
            "key \"lisen\" is not known; the nearest one is \"listen\"",
        ),
        (
            "max_conections = 1",
            "key \"max_conections\" is not known; the nearest one is \"max_connections\"",
        ),
        (
            "[tls]\ncert = 'x'",
            "key \"tls\" is not known; the nearest one is \"tls_key\"",
        ),
        (
            "model = 'a'\nmax_connections = 'many'",
            "line 2: invalid type: string \"many\", expected usize",
        ),
        (
            "max_connections = -1",
            "line 1: invalid value: integer `-1`, expected usize",
        ),
        ("max_connections = 0", "max_connections is 0, less than 1"),
        ("backfill_workers = 0", "backfill_workers is 0, less than 1"),
        (
            "backfill_workers = 65",
            "backfill_workers is 65, more than 64",
        ),
        (
            "startup_timeout_ms = 0",
            "startup_timeout_ms is 0, less than 1",
        ),
        (
            "listen = 'example.org:5433'",
            "listen is \"example.org:5433\", not an address and a port such as 127.0.0.1:5433",
        ),
        (
            "listen = '127.0.0.1'",
            "listen is \"127.0.0.1\", not an address and a port such as 127.0.0.1:5433",
        ),
        (
            "metrics_listen = '9090'",
            "metrics_listen is \"9090\", not an address and a port such as 127.0.0.1:5433",
        ),
        (
            "anonymous_role = 'root'",
            "anonymous_role is \"root\", not reader, analyst or admin",
        ),
        ("tls_cert = 'c'", "tls_cert needs tls_key"),
        ("tls_key = 'k'", "tls_key needs tls_cert"),
        (
            "tls_required = true",
            "tls_required needs tls_cert and tls_key",
        ),
        (
            "content_roots = ['/none/such']",
            "content root /none/such: No such file or directory (os error 2)",
        ),
        (
            "content_roots = ['/etc/passwd']",
            "content root /etc/passwd is not a folder",
        ),
        (
            "listen = '0.0.0.0:5433'",
            "will not listen on 0.0.0.0:5433 without TLS (tls_cert, tls_key); allow_insecure says that this is meant",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(config(text).unwrap_err(), expected, "{text}");
    }
    let broken = config("listen = ").unwrap_err();
    assert!(broken.starts_with("line 1: "), "{broken}");
    let missing = ServeOptions::read(Path::new("/none/such.toml")).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("cannot read /none/such.toml: ")
    );
}

#[test]
fn the_command_line_wins() {
    let file = ServeOptions::parse("model = 'a'\nmax_connections = 7").unwrap();
    let flags = ServeOptions {
        model: Some("b".to_owned()),
        ..ServeOptions::default()
    };
    let config = ServeConfig::new(flags.or(file)).unwrap();
    assert_eq!(
        (config.engine.model.as_str(), config.max_connections),
        ("b", 7)
    );
}

#[test]
fn others_need_users_and_tls() {
    let tls = "tls_cert = 'c'\ntls_key = 'k'\n";
    let any = "listen = '[::]:1'\n";
    // Settings, and then: whether TLS is required, whether it listens without and with users, who nobody in particular is.
    let cases = [
        (String::new(), false, true, Some(Role::Admin)),
        (
            "anonymous_role = 'reader'".to_owned(),
            false,
            true,
            Some(Role::Reader),
        ),
        (
            "listen = 'localhost:0'".to_owned(),
            false,
            true,
            Some(Role::Admin),
        ),
        (tls.to_owned(), false, true, Some(Role::Admin)),
        (
            format!("{tls}tls_required = true"),
            true,
            true,
            Some(Role::Admin),
        ),
        (format!("{tls}{any}"), true, false, None),
        (
            format!("{tls}{any}tls_required = false"),
            false,
            false,
            None,
        ),
        (
            format!("{any}allow_insecure = true"),
            false,
            true,
            Some(Role::Admin),
        ),
    ];
    for (text, required, without_users, nobody) in cases {
        let config = config(&text).unwrap();
        assert_eq!(config.tls_required, required, "{text}");
        assert_eq!(config.may_listen(0).is_ok(), without_users, "{text}");
        assert_eq!(config.may_listen(1), Ok(()), "{text}");
        assert_eq!(config.anonymous(0), nobody, "{text}");
        assert_eq!(config.anonymous(1), None, "{text}");
    }
    let config = config(&format!("{tls}{any}")).unwrap();
    assert_eq!(
        config.may_listen(0).unwrap_err().to_string(),
        "will not listen on [::]:1 without users (safeguard user add); allow_insecure says that this is meant"
    );
}

#[test]
fn limits_of_a_day_are_each_roles() {
    let section =
        "model = 'nano'\n[limits.analyst]\nasked_per_day = 5\n[limits.admin]\ntokens_per_day = 0";
    let dotted =
        "limits.analyst.asked_per_day = 5\nlimits.admin = { tokens_per_day = 0 }\nmodel = 'nano'";
    for text in [section, dotted] {
        let limits = config(text).unwrap().limits;
        let of = |role| {
            let RoleLimits {
                asked_per_day,
                tokens_per_day,
            } = limits.of(role);
            (asked_per_day, tokens_per_day)
        };
        assert_eq!(of(Role::Reader), (None, None), "{text}");
        assert_eq!(of(Role::Analyst), (Some(5), None), "{text}");
        assert_eq!(of(Role::Admin), (None, Some(0)), "{text}");
    }
    let wrong = [
        (
            "[limits.boss]\nasked_per_day = 5",
            "line 1: unknown field `boss`, expected one of `reader`, `analyst`, `admin`",
        ),
        (
            "[limits.admin]\nasked = 5",
            "line 2: unknown field `asked`, expected `asked_per_day` or `tokens_per_day`",
        ),
        (
            "[limits.admin]\nasked_per_day = -1",
            "line 2: invalid value: integer `-1`, expected u64",
        ),
    ];
    for (text, want) in wrong {
        assert_eq!(config(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn roles_are_in_order() {
    assert!(Role::Reader < Role::Analyst && Role::Analyst < Role::Admin);
    for role in Role::ALL {
        assert_eq!(Role::parse(role.as_str()), Some(role));
    }
    assert_eq!(Role::parse("Admin"), None);
}
