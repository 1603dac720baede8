//! What the server says of itself over HTTP, to whoever watches it.

use super::{Wire, config};
use crate::endpoint::double::{Double, Skills};
use crate::stores;
use safeguard::backend::Backend;
use safeguard::backend::endpoint::Endpoint;
use safeguard::config::EndpointAccess;
use safeguard::server::health::Health;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: me\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

/// The number behind a name.
fn number(said: &str, name: &str) -> f64 {
    let line = said.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("{name} in {said}"));
    line.trim().parse().unwrap()
}

/// A statement that the model keeps waiting: the model is the limit, and the metrics say so.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_is_waited_for() {
    let slow = Skills {
        latency: Duration::from_secs(3_600),
        ..Skills::default()
    };
    let double = Double::start(slow).await;
    let address = double.address.clone();
    let opening = move || {
        let access = EndpointAccess::default();
        Endpoint::open(&address, access).unwrap()
    };
    let endpoint = tokio::task::spawn_blocking(opening).await.unwrap();
    let backend: Arc<dyn Backend> = Arc::new(endpoint);
    let wire = Wire::over(config(), stores::new(), backend).await;
    let any = "127.0.0.1:0".parse().unwrap();
    let health = Health::bind(Arc::clone(&wire.shared), any).await.unwrap();
    let watched = health.address();
    tokio::spawn(health.run(wire.shutdown.clone()));
    assert!(get(watched, "/health").await.ends_with("\r\n\r\nok\n"));
    assert!(get(watched, "/other").await.starts_with("HTTP/1.1 404 "));
    let before = get(watched, "/metrics").await;
    let servers = [
        ("safeguard_model_servers ", 1.0),
        ("safeguard_model_servers_well ", 1.0),
        ("safeguard_model_in_hand ", 0.0),
        ("safeguard_waiting{for=\"model\"}", 0.0),
    ];
    for (name, wanted) in servers {
        assert_eq!(number(&before, name), wanted, "{name}");
    }
    let (client, _) = wire.connect("me").await;
    let ask = "SELECT safeguard_classify('hate', 'text ' || x) FROM generate_series(1, 5) AS g(x)";
    let asking = tokio::spawn(async move { client.simple_query(ask).await });
    let mut look = tokio::time::interval(Duration::from_millis(2));
    let mut now = String::new();
    for _ in 0..15_000 {
        look.tick().await;
        if asking.is_finished() {
            panic!("it ended: {:?}", asking.await);
        }
        now = get(watched, "/metrics").await;
        if number(&now, "safeguard_model_in_hand ") == 5.0 {
            break;
        }
    }
    let seconds = "safeguard_wait_seconds_total{for=\"model\"}";
    assert_eq!(number(&now, "safeguard_waiting{for=\"model\"}"), 5.0);
    assert!(number(&now, "safeguard_model_places ") >= 5.0);
    let later = get(watched, "/metrics").await;
    assert!(
        number(&later, seconds) > number(&now, seconds),
        "they wait on"
    );
    asking.abort();
    wire.shutdown.soft.cancel();
    let stopping = get(watched, "/health").await;
    assert!(stopping.starts_with("HTTP/1.1 503 "), "{stopping}");
}
