//! The way to a database: encrypted, to the right one, with a password that is never shown.

use super::cluster::Cluster;
use crate::relations::Program;
use std::net::TcpListener;

const SETTINGS: &str = "listen_addresses=127.0.0.1
    ssl=on
    ssl_cert_file={}/cert.pem
    ssl_key_file={}/key.pem
    hba_file={}/hba";
const HBA: &str = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_is_as_protected_as_it_is_said_to_be() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    // Free a moment ago, which has to do: PostgreSQL takes no port 0.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let files = [
        ("cert.pem", cert.as_str()),
        ("key.pem", key.as_str()),
        ("hba", HBA),
    ];
    let Some(cluster) = Cluster::with(port, SETTINGS, &files) else {
        return;
    };
    let made = "CREATE ROLE ann LOGIN PASSWORD 's3cret'; CREATE TABLE public.posts AS SELECT 7 AS id; GRANT SELECT ON posts TO ann";
    cluster.client().await.batch_execute(made).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let trusted = data.path().join("trusted.pem");
    std::fs::write(&trusted, &cert).unwrap();
    let program = Program::start(data.path(), None).await;
    let root = format!("sslrootcert '{}'", trusted.display());
    for (host, options, want) in [
        (
            "localhost",
            format!("password 's3cret', sslmode 'verify-full', {root}"),
            Ok(()),
        ),
        (
            "127.0.0.1",
            "password 's3cret', sslmode 'require'".to_owned(),
            Ok(()),
        ),
        (
            "localhost",
            "password 's3cret', sslmode 'verify-full'".to_owned(),
            Err(("08001", "UnknownIssuer")),
        ),
        (
            "127.0.0.1",
            format!("password 's3cret', sslmode 'verify-full', {root}"),
            Err(("08001", "not valid for name")),
        ),
        (
            "127.0.0.1",
            "password 's3cret', sslmode 'disable'".to_owned(),
            Err(("28000", "no encryption")),
        ),
        (
            "127.0.0.1",
            "password 'wr0ng', sslmode 'require'".to_owned(),
            Err(("28P01", "password authentication failed")),
        ),
        (
            "127.0.0.1",
            "sslmode 'require'".to_owned(),
            Err(("28P01", "wants a password")),
        ),
        (
            "127.0.0.1",
            "password_env 'SAFEGUARD_NO_SUCH_VARIABLE', sslmode 'require'".to_owned(),
            Err(("28P01", "SAFEGUARD_NO_SUCH_VARIABLE")),
        ),
        (
            "127.0.0.1",
            "sslmode 'verify-full', sslrootcert '/no/such.pem'".to_owned(),
            Err(("F0000", "cannot use sslrootcert /no/such.pem")),
        ),
    ] {
        let create = format!(
            "CREATE SERVER s FOREIGN DATA WRAPPER postgres OPTIONS (host '{host}', port '{port}', dbname 'postgres', user 'ann', {options})"
        );
        match (program.run(&create).await, want) {
            (Ok(_), Ok(())) => {
                assert_eq!(
                    program.said("SELECT id FROM s.posts").await,
                    "7",
                    "{options}"
                );
                program.run("DROP SERVER s").await.unwrap();
            }
            (Err(error), Err((sqlstate, words))) => {
                let why = error.to_string();
                assert!(
                    why.contains(words) && error.sqlstate() == sqlstate,
                    "{options}: {sqlstate} {why}"
                );
                assert!(!why.contains("s3cret") && !why.contains("wr0ng"), "{why}");
            }
            (done, want) => panic!("{host} {options}: {done:?}, not {want:?}"),
        }
    }
}
