//! A gate in front of a server: every request passes it whole, and so does its reply, and both are kept.

use serde_json::Value;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A question that was put, and what was said to it to the end.
#[derive(Debug, Clone)]
pub struct Asked {
    pub text: String,
    pub path: String,
    pub body: Value,
    pub said: Option<String>,
    /// It came when the server had closed the connection already, as it does after a reply that it has streamed.
    pub unheard: bool,
}

/// One server's gate.
pub struct Gate {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Gate {
    /// In front of a port of this machine; `answered` counts replies that were passed on to the end.
    pub async fn open(there: u16, answered: Arc<watch::Sender<usize>>) -> Gate {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, there, Arc::clone(&kept), Arc::clone(&answered)));
            }
        });
        Gate {
            address: format!("http://127.0.0.1:{port}/v1"),
            asked,
        }
    }

    /// Questions so far, those of a probe left out.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn carry(
    near: TcpStream,
    there: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    answered: Arc<watch::Sender<usize>>,
) -> io::Result<()> {
    near.set_nodelay(true)?;
    let mut near = BufReader::new(near);
    let mut far: Option<BufReader<TcpStream>> = None;
    loop {
        if let Some(far) = &mut far {
            tokio::select! {
                // Whatever a server says that was not asked: that it closes the connection.
                _ = far.fill_buf() => return Ok(()),
                asked = near.fill_buf() => { asked?; }
            }
        }
        let Some(request) = Message::read(&mut near).await? else {
            return Ok(());
        };
        let place = question(&request).map(|question| {
            let mut asked = asked.lock().unwrap();
            asked.push(question);
            asked.len() - 1
        });
        let stood = far.is_some();
        let reply = match pass(&mut far, there, &request).await {
            Ok(reply) => reply,
            Err(error) => {
                if let Some(place) = place {
                    asked.lock().unwrap()[place].unheard = stood;
                }
                return Err(error);
            }
        };
        near.write_all(&reply.raw).await?;
        if let Some(place) = place {
            asked.lock().unwrap()[place].said = Some(reply.body);
            answered.send_modify(|n| *n += 1);
        }
    }
}

async fn pass(
    far: &mut Option<BufReader<TcpStream>>,
    there: u16,
    request: &Message,
) -> io::Result<Message> {
    let far = match far {
        Some(far) => far,
        None => far.insert(BufReader::new(
            TcpStream::connect(("127.0.0.1", there)).await?,
        )),
    };
    far.write_all(&request.raw).await?;
    let reply = Message::read(far).await?;
    Ok(reply.ok_or(io::ErrorKind::UnexpectedEof)?)
}

/// A request or a reply of HTTP/1.1.
pub struct Message {
    raw: Vec<u8>,
    first: String,
    pub body: String,
}

impl Message {
    /// The next one; none at the end.
    pub async fn read(from: &mut BufReader<TcpStream>) -> io::Result<Option<Message>> {
        let (mut raw, mut first) = (Vec::new(), String::new());
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = line(from, &mut raw).await?;
            if line.is_empty() && raw.is_empty() {
                return Ok(None);
            }
            let lower = line.to_ascii_lowercase();
            if let Some(said) = lower.strip_prefix("content-length:") {
                length = said.trim().parse().map_err(io::Error::other)?;
            }
            chunked |= lower.starts_with("transfer-encoding:") && lower.contains("chunked");
            match line.is_empty() {
                true => break,
                false if first.is_empty() => first = line,
                false => {}
            }
        }
        let mut body = Vec::new();
        match chunked {
            false => part(from, length, &mut raw, &mut body).await?,
            true => loop {
                let said = line(from, &mut raw).await?;
                let length = usize::from_str_radix(&said, 16).map_err(io::Error::other)?;
                part(from, length, &mut raw, &mut body).await?;
                line(from, &mut raw).await?;
                if length == 0 {
                    break;
                }
            },
        }
        let body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(Some(Message { raw, first, body }))
    }
}

/// A line without its end.
async fn line(from: &mut BufReader<TcpStream>, raw: &mut Vec<u8>) -> io::Result<String> {
    let begin = raw.len();
    from.read_until(b'\n', raw).await?;
    let line = std::str::from_utf8(&raw[begin..]).map_err(io::Error::other)?;
    Ok(line.trim_end().to_owned())
}

async fn part(
    from: &mut BufReader<TcpStream>,
    length: usize,
    raw: &mut Vec<u8>,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    let begin = raw.len();
    raw.resize(begin + length, 0);
    from.read_exact(&mut raw[begin..]).await?;
    body.extend(&raw[begin..]);
    Ok(())
}

/// The question in a request, unless a probe puts it.
fn question(request: &Message) -> Option<Asked> {
    let path = request.first.split(' ').nth(1)?.to_owned();
    let body: Value = serde_json::from_str(&request.body).ok()?;
    let (all, text) = match body.get("prompt") {
        Some(prompt) => {
            let ids: Vec<u32> = serde_json::from_value(prompt.clone()).ok()?;
            let all = crate::endpoint::tokenizer().decode(&ids);
            let (_, text) = all.split_once("<|start|>user<|message|>")?;
            let text = text.split("<|end|>").next()?.to_owned();
            (all, text)
        }
        None => {
            let said = |at: usize| Some(body["messages"][at]["content"].as_str()?.to_owned());
            (said(0)?, said(1)?)
        }
    };
    let probe = all.contains("day, night");
    (!probe).then_some(Asked {
        text,
        path,
        body,
        said: None,
        unheard: false,
    })
}
