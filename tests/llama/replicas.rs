//! Three servers of one model, one of which is killed.

use super::gate::{Asked, Gate, Message};
use super::{NAME, Server, llama, released, safeguard, texts, write_rows};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

const ROWS: usize = 500;
/// Replies after which a server is killed.
const KILLED_AT: usize = 150;
/// Requests to a server that was killed: what was on its way before it is left alone, and trials while the rest is judged.
/// Were it not left alone, most of the others would go there, as it has nothing to do.
const IN_VAIN_MAX: usize = 64;
/// The same prompt read in another batch is rounded differently; so many of the texts may have another label alone.
const OTHERWISE_MAX: usize = 1;
const TABLE: &str = "CREATE EXTERNAL TABLE IF NOT EXISTS mail STORED AS CSV LOCATION 'mail.csv'";

/// What the model said at last, in a whole reply.
fn last_said(reply: &str) -> String {
    let mut written = String::new();
    for event in reply
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
    {
        let event: Value = serde_json::from_str(&format!("{{{event}")).unwrap();
        written += event["choices"][0]["text"].as_str().unwrap_or_default();
    }
    let (_, last) = written
        .rsplit_once("<|channel|>final<|message|>")
        .unwrap_or_default();
    last.trim_end_matches("<|return|>").trim().to_owned()
}

async fn ask_alone(server: &Server, asked: &Asked) -> String {
    let stream = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    let mut stream = BufReader::new(stream);
    let body = asked.body.to_string();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        asked.path,
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    last_said(&Message::read(&mut stream).await.unwrap().unwrap().body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_killed_and_no_row_is_lost_or_asked_twice() {
    let Some(python) = llama() else { return };
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    released(&python, here);
    let texts = texts(ROWS);
    write_rows(&here.join("mail.csv"), &texts);
    let start = |_| Server::start(&python, &here.join("model.gguf"), NAME, &[]);
    let mut servers: Vec<Server> = (0..3).map(start).collect();
    let (answered, mut seen) = watch::channel(0);
    let answered = Arc::new(answered);
    let mut gates = Vec::new();
    for server in &servers {
        gates.push(Gate::open(server.port, Arc::clone(&answered)).await);
    }
    let addresses: Vec<&str> = gates.iter().map(|gate| &*gate.address).collect();
    let addresses = addresses.join(",");
    let select = "SELECT id, body, safeguard_classify('keywords', body) AS label FROM mail";
    let arguments = [
        "sql",
        "--data-dir",
        "data",
        "--model",
        &addresses,
        "--format",
        "csv",
        "-c",
        TABLE,
        "-c",
        select,
    ];
    let mut dead = servers.pop().unwrap();
    let (judged, in_hand) = tokio::join!(safeguard(here, &arguments), async {
        seen.wait_for(|answered| *answered >= KILLED_AT)
            .await
            .unwrap();
        dead.kill();
        gates[2].asked().len()
    });
    let (rows, told) = judged;
    let heard = |gate: &Gate| {
        let mut asked = gate.asked();
        asked.retain(|one| !one.unheard);
        asked
    };
    let asked: Vec<Asked> = gates.iter().flat_map(heard).collect();

    // Every text was answered once, and put again only where no answer came.
    let mut by_text: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for one in &asked {
        let (tries, said) = by_text.entry(&one.text).or_default();
        *tries += 1;
        said.extend(one.said.as_deref().map(last_said));
    }
    let twice: Vec<_> = by_text
        .iter()
        .filter(|(_, (_, said))| said.len() != 1)
        .collect();
    assert!(
        twice.is_empty() && by_text.len() == ROWS,
        "{} {twice:?}",
        by_text.len()
    );
    let failed = asked.iter().filter(|one| one.said.is_none()).count();
    assert!(failed > 0, "the server died idle");
    let unanswered = heard(&gates[2])
        .iter()
        .filter(|one| one.said.is_none())
        .count();
    assert_eq!(
        unanswered, failed,
        "only what the dead server had in hand was put again"
    );
    let in_vain = gates[2].asked().len() - in_hand;
    assert!(
        in_vain <= IN_VAIN_MAX,
        "{in_vain} requests to the dead server"
    );

    // Row by row, in their order, what the model said of this text.
    let expected: Vec<String> = (1..)
        .zip(&texts)
        .map(|(id, text)| format!("{id},\"{text}\",{}", by_text[&**text].1[0]))
        .collect();
    let lines: Vec<&str> = rows.lines().skip(1).collect();
    assert_eq!(lines, expected);
    let both = ["allowed", "violates"]
        .map(|label| rows.lines().filter(|row| row.ends_with(label)).count());
    assert!(
        both[0] > ROWS / 4 && both[1] > ROWS / 4 && both[0] + both[1] == ROWS,
        "{both:?}"
    );
    let notice = format!("NOTICE:  safeguard: {ROWS} rows, 0 recalled, {ROWS} asked, ");
    assert!(
        told.contains(&notice) && !told.contains("undecided"),
        "{told}"
    );
    // Each text alone has the label that it had among the others.
    let sample = asked.iter().filter(|one| one.said.is_some()).step_by(20);
    let mut otherwise = Vec::new();
    for one in sample {
        let alone = ask_alone(&servers[0], one).await;
        if alone != by_text[&*one.text].1[0] {
            otherwise.push((&one.text, alone));
        }
    }
    assert!(otherwise.len() <= OTHERWISE_MAX, "{otherwise:?}");

    // Again: nothing is asked, with a server that is no more.
    let before: usize = gates.iter().map(|gate| gate.asked().len()).sum();
    let (again, told) = safeguard(here, &arguments[..]).await;
    assert_eq!(again, rows);
    assert!(
        told.contains(&format!(" {ROWS} recalled, 0 asked")),
        "{told}"
    );
    let after: usize = gates.iter().map(|gate| gate.asked().len()).sum();
    assert_eq!(after, before);
}
