//! Bytes that no client sends: whatever comes, the server answers or hangs up, and serves the next.
//!
//! `SAFEGUARD_FUZZ=100000` mutates so many messages instead of a few thousand, and then looks at memory too: what the
//! process holds after a fifth of them must be about what it holds at the end. (With few, other tests of the same process
//! are louder.)

use super::{Wire, config, simple};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A small generator that gives the same numbers everywhere (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// What well-behaved clients send.
fn corpus() -> Vec<Vec<u8>> {
    vec![
        framed(b'Q', b"SELECT 1\0"),
        framed(b'Q', b"BEGIN; SELECT 1/0; ROLLBACK\0"),
        framed(b'Q', b"COPY f FROM STDIN\0"),
        framed(b'Q', b"COPY f FROM STDIN (FORMAT binary)\0"),
        framed(b'd', b"1\tone\n2\ttwo\n"),
        framed(
            b'd',
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x08\0\0\0\0\0\0\0\x01\0\0\0\x01x",
        ),
        framed(b'c', b""),
        framed(b'f', b"no more\0"),
        framed(b'P', b"s\0SELECT $1 + 1, $2\0\0\x02\0\0\0\x17\0\0\0\0"),
        framed(b'P', b"\0SELECT id, body FROM f WHERE id = $1\0\0\0"),
        framed(
            b'B',
            b"p\0s\0\0\x02\0\x01\0\0\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x01x\0\x01\0\x01",
        ),
        framed(b'B', b"\0\0\0\0\0\x01\0\0\0\x011\0\0"),
        framed(b'D', b"Ss\0"),
        framed(b'D', b"P\0"),
        framed(b'E', b"p\0\0\0\0\x01"),
        framed(b'E', b"\0\0\0\0\0"),
        framed(b'C', b"Ss\0"),
        framed(b'S', b""),
        framed(b'H', b""),
        framed(b'p', b"secret\0"),
        framed(b'F', b"\0\0\0\x01\0\0\0\0\0\0"),
    ]
}

fn mutate(dice: &mut Dice, message: &mut Vec<u8>) {
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(message.len().max(1));
        match dice.roll(6) {
            0 if !message.is_empty() => message[at] = dice.roll(256) as u8,
            1 => message.insert(at.min(message.len()), dice.roll(256) as u8),
            2 if !message.is_empty() => {
                message.remove(at);
            }
            3 => message.truncate(at),
            4 if message.len() > 4 => message[1 + dice.roll(4)] = dice.roll(256) as u8,
            _ => {
                let copy = message[at.min(message.len())..].to_vec();
                message.extend(copy);
            }
        }
    }
}

/// From so many messages on, memory is looked at.
const WATCHED: usize = 100_000;
/// MiB that may come and go between two looks: caches of the allocator and of threads.
const SLACK: u64 = 48;

/// Watches the memory of this process over a run.
struct Growth {
    first: Option<u64>,
}

impl Growth {
    /// Pages of this process in memory, in MiB.
    fn resident() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .unwrap_or(0);
        (pages * 4096) >> 20
    }

    /// Takes the first look once a fifth is done.
    fn look(&mut self, done: usize, all: usize) {
        if self.first.is_none() && done * 5 >= all {
            self.first = Some(Growth::resident());
        }
    }

    fn check(self, what: &str) {
        let (first, last) = (self.first.unwrap_or(0), Growth::resident());
        if messages() >= WATCHED {
            println!("{what}: {first} MiB after a fifth, {last} MiB at the end");
            assert!(last <= first + SLACK, "{what}: from {first} to {last} MiB");
        }
    }
}

fn messages() -> usize {
    std::env::var("SAFEGUARD_FUZZ")
        .ok()
        .and_then(|many| many.parse().ok())
        .unwrap_or(3_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_messages_end_in_an_answer_or_a_closed_connection() {
    let wire = Wire::start(config()).await;
    let (client, _) = wire.connect("ann").await;
    assert_eq!(
        simple(&client, "CREATE TABLE f (id BIGINT, body TEXT)").await,
        ""
    );
    let corpus = corpus();
    let mut dice = Dice(42);
    let mut left = messages();
    let mut growth = Growth { first: None };
    while left > 0 {
        growth.look(messages() - left, messages());
        let mut stream = TcpStream::connect(wire.address).await.unwrap();
        let mut startup = b"\0\x03\0\0user\0eve\0\0".to_vec();
        startup.splice(0..0, (startup.len() as u32 + 4).to_be_bytes());
        if dice.roll(20) == 0 {
            mutate(&mut dice, &mut startup);
        }
        let mut bytes = startup;
        for _ in 0..50.min(left) {
            let mut message = corpus[dice.roll(corpus.len())].clone();
            if dice.roll(2) == 0 {
                mutate(&mut dice, &mut message);
            }
            bytes.extend(message);
            left -= 1;
        }
        let (mut input, mut output) = stream.split();
        let talk = async {
            let write = async {
                // The server may hang up before it has read all.
                let _ = output.write_all(&bytes).await;
                let _ = output.shutdown().await;
            };
            let read = async {
                let mut answer = Vec::new();
                let _ = input.read_to_end(&mut answer).await;
            };
            tokio::join!(write, read);
        };
        let talked = timeout(Duration::from_secs(20), talk).await;
        assert!(talked.is_ok(), "the server hangs on {bytes:?}");
    }
    growth.check("messages");
    assert!(!wire.served.is_finished());
    assert_eq!(simple(&client, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_statements_end_in_an_answer() {
    let statements = [
        "SELECT id, safeguard_classify('hate', body) FROM f WHERE id IN (1, 2) ORDER BY 1 LIMIT 3",
        "WITH a AS (SELECT 1 AS x) SELECT x, count(*) FILTER (WHERE x > 0) FROM a GROUP BY x HAVING count(*) > 0",
        "SELECT (safeguard_verdict('spam', body)).rationale, body::varchar FROM f",
        "COPY (SELECT * FROM f) TO STDOUT WITH (FORMAT csv, HEADER true)",
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM f; FETCH 5 FROM c; COMMIT",
        "SET statement_timeout = '5s'; SHOW ALL; RESET ALL",
        "INSERT INTO f VALUES (1, 'a'), (2, E'b\\n')",
        "PREPARE p (int) AS SELECT $1; EXECUTE p(1); DEALLOCATE p",
        "SELECT CASE WHEN id = 1 THEN 'x' ELSE body END, array_agg(id) FROM f GROUP BY 1",
        "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relkind = ANY (ARRAY['r', 'v'])",
    ];
    let wire = Wire::start(config()).await;
    let mut dice = Dice(7);
    let (mut client, _) = wire.connect("ann").await;
    assert_eq!(
        simple(&client, "CREATE TABLE f (id BIGINT, body TEXT)").await,
        ""
    );
    let mut growth = Growth { first: None };
    for round in 0..messages() / 10 {
        growth.look(round, messages() / 10);
        let mut sql = statements[dice.roll(statements.len())].as_bytes().to_vec();
        mutate(&mut dice, &mut sql);
        let sql = String::from_utf8_lossy(&sql).replace('\0', " ");
        let answered = timeout(Duration::from_secs(20), client.simple_query(&sql)).await;
        assert!(answered.is_ok(), "the server hangs on {sql:?}");
        if client.is_closed() || round % 100 == 99 {
            assert!(!client.is_closed(), "the server hung up on {sql:?}");
            client = wire.connect("ann").await.0;
        }
    }
    growth.check("statements");
    assert_eq!(simple(&client, "SELECT 1").await, "1");
}
