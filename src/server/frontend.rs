//! What clients send: bytes in, messages out.
//!
//! Takes what was read from a socket so far, gives the next whole message (PostgreSQL documentation, "Message
//! Formats", protocol 3.0 and 3.2). Whatever the bytes are, it answers with a message, with "not yet", or with an error:
//! it never panics and never asks for more room than the limits allow. Knows no socket and no meaning.

use super::failure::Failure;
use crate::config::{SERVER_MESSAGE_BYTES_MAX, SERVER_STARTUP_BYTES_MAX};
use bytes::{Buf, Bytes, BytesMut};

/// The first thing on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// A request for TLS.
    Tls,
    /// A request for GSSAPI encryption.
    Gss,
    /// A request to cancel another connection's statement.
    Cancel {
        /// That connection's number.
        pid: i32,
        /// The secret that it was told.
        key: Bytes,
    },
    /// Who connects, with settings.
    Startup {
        /// Minor version of protocol 3.
        minor: u16,
        /// Names and values in the order given.
        parameters: Vec<(String, String)>,
    },
}

/// A message of a connection that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Statements of the simple protocol.
    Query(String),
    /// A statement to prepare.
    Parse {
        /// Its name; empty for the unnamed one.
        name: String,
        /// The statement.
        query: String,
        /// Types of its first parameters; 0 leaves one open.
        types: Vec<u32>,
    },
    /// Parameters for a prepared statement.
    Bind {
        /// The portal to make; empty for the unnamed one.
        portal: String,
        /// The statement.
        statement: String,
        /// 0 text, 1 binary: none, one for all, or one each.
        formats: Vec<i16>,
        /// Values; `None` is NULL.
        values: Vec<Option<Bytes>>,
        /// As `formats`, for the columns of the answer.
        results: Vec<i16>,
    },
    /// A question for parameters and columns.
    Describe(Target),
    /// Run a portal.
    Execute {
        /// The portal.
        portal: String,
        /// Rows at the most; 0 for all.
        rows: usize,
    },
    /// Forget a statement or a portal.
    Close(Target),
    /// End of a batch of the extended protocol.
    Sync,
    /// Send what there is.
    Flush,
    /// Part of a COPY FROM STDIN.
    CopyData(Bytes),
    /// Its end.
    CopyDone,
    /// Its failure, on the client's side.
    CopyFail(String),
    /// An answer to a question for a password.
    Password(Bytes),
    /// The client leaves.
    Terminate,
    /// The old way to call a function.
    FunctionCall,
    /// A message that is whole and wrong; the stream goes on behind it.
    Broken {
        /// `Q`, `P`, ..
        kind: u8,
        /// What is wrong.
        failure: Failure,
    },
    /// A statement longer than the limit; its bytes are skipped.
    TooLong {
        /// `Q`, `P` or `B`.
        kind: u8,
        /// Its bytes.
        bytes: usize,
    },
}

/// A prepared statement or a portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A prepared statement of this name.
    Statement(String),
    /// A portal of this name.
    Portal(String),
}

/// Reads messages from what a socket gave.
#[derive(Debug)]
pub struct Reader {
    /// Read and not yet understood.
    pub inbox: BytesMut,
    /// Bytes of a message that was too long, yet to be thrown away.
    skip: usize,
    statement_bytes_max: usize,
}

const TLS: i32 = 80_877_103;
const GSS: i32 = 80_877_104;
const CANCEL: i32 = 80_877_102;

fn broken(why: &str) -> Failure {
    Failure::fatal("08P01", format!("invalid message: {why}"))
}

impl Reader {
    /// Nothing read yet; statements have at most this many bytes.
    pub fn new(statement_bytes_max: usize) -> Reader {
        Reader {
            inbox: BytesMut::new(),
            skip: 0,
            statement_bytes_max,
        }
    }

    /// The first message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// Fatal ones: 08P01 for what is no message, 0A000 for another protocol.
    pub fn first(&mut self) -> Result<Option<First>, Failure> {
        let Some(length) = length(&self.inbox, 0) else {
            return Ok(None);
        };
        if !(8..=SERVER_STARTUP_BYTES_MAX as i64).contains(&length) {
            return Err(broken("the length of the startup packet"));
        }
        let length = length as usize;
        if self.inbox.len() < length {
            return Ok(None);
        }
        let mut body = Body(self.inbox.split_to(length).freeze());
        body.0.advance(4);
        match body.i32()? {
            TLS => Ok(Some(First::Tls)),
            GSS => Ok(Some(First::Gss)),
            CANCEL => Ok(Some(First::Cancel {
                pid: body.i32()?,
                key: body.0,
            })),
            version if version >> 16 == 3 => {
                let minor = (version & 0xffff) as u16;
                let mut parameters = Vec::new();
                loop {
                    let name = body.text()?;
                    if name.is_empty() {
                        break;
                    }
                    parameters.push((name, body.text()?));
                }
                Ok(Some(First::Startup { minor, parameters }))
            }
            version => Err(Failure::fatal(
                "0A000",
                format!(
                    "unsupported frontend protocol {}.{}: server supports 3.0 to 3.2",
                    (version >> 16) as u16,
                    version & 0xffff
                ),
            )),
        }
    }

    /// The next message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// Fatal ones: the stream cannot be followed any more.
    pub fn message(&mut self) -> Result<Option<Message>, Failure> {
        let skipped = self.skip.min(self.inbox.len());
        self.inbox.advance(skipped);
        self.skip -= skipped;
        if self.skip > 0 {
            return Ok(None);
        }
        let (Some(&kind), Some(length)) = (self.inbox.first(), length(&self.inbox, 1)) else {
            return Ok(None);
        };
        let most = match kind {
            b'Q' | b'P' => self.statement_bytes_max.saturating_add(1 << 10),
            b'B' | b'd' => SERVER_MESSAGE_BYTES_MAX,
            b'p' | b'f' | b'F' | b'D' | b'E' | b'C' | b'S' | b'H' | b'X' | b'c' => {
                SERVER_STARTUP_BYTES_MAX
            }
            other => {
                return Err(Failure::fatal(
                    "08P01",
                    format!("invalid frontend message type {other}"),
                ));
            }
        };
        if length < 4 {
            return Err(broken("its length"));
        }
        let length = length as usize;
        if length > most {
            if !matches!(kind, b'Q' | b'P' | b'B') {
                return Err(broken(&format!("{length} bytes, the limit is {most}")));
            }
            self.skip = length + 1;
            return Ok(Some(Message::TooLong {
                kind,
                bytes: length,
            }));
        }
        if self.inbox.len() < length + 1 {
            return Ok(None);
        }
        let mut body = Body(self.inbox.split_to(length + 1).freeze());
        body.0.advance(5);
        let read = message(kind, &mut body).and_then(|message| match body.0.is_empty() {
            true => Ok(message),
            false => Err(refused("it has more bytes than it should")),
        });
        Ok(Some(read.unwrap_or_else(|failure| Message::Broken {
            kind,
            failure,
        })))
    }

    /// Bytes that the next message needs beyond those that are here, as far as is known.
    pub fn missing(&self) -> usize {
        match length(&self.inbox, 1) {
            Some(length) => (length.max(0) as usize + 1).saturating_sub(self.inbox.len()),
            None => 5,
        }
    }
}

/// A message that is whole and wrong: the stream goes on behind it.
fn refused(why: &str) -> Failure {
    Failure::new("08P01", format!("invalid message: {why}"))
}

/// The length in a header, `at` bytes from the start.
fn length(bytes: &[u8], at: usize) -> Option<i64> {
    let length = bytes.get(at..at + 4)?;
    Some(i64::from(i32::from_be_bytes(length.try_into().ok()?)))
}

fn message(kind: u8, body: &mut Body) -> Result<Message, Failure> {
    Ok(match kind {
        b'Q' => Message::Query(body.text()?),
        b'P' => Message::Parse {
            name: body.text()?,
            query: body.text()?,
            types: body.list(Body::u32)?,
        },
        b'B' => Message::Bind {
            portal: body.text()?,
            statement: body.text()?,
            formats: body.list(Body::i16)?,
            values: body.list(Body::value)?,
            results: body.list(Body::i16)?,
        },
        b'D' => Message::Describe(body.target()?),
        b'E' => Message::Execute {
            portal: body.text()?,
            rows: usize::try_from(body.i32()?).unwrap_or(0),
        },
        b'C' => Message::Close(body.target()?),
        b'S' => Message::Sync,
        b'H' => Message::Flush,
        b'd' => Message::CopyData(body.rest()),
        b'c' => Message::CopyDone,
        b'f' => Message::CopyFail(body.text()?),
        b'p' => Message::Password(body.rest()),
        b'X' => {
            body.rest();
            Message::Terminate
        }
        b'F' => {
            body.rest();
            Message::FunctionCall
        }
        _ => unreachable!("bug: the kind was looked at before"),
    })
}

/// The rest of one message.
struct Body(Bytes);

impl Body {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut taken = [0; N];
        match self.0.len() < N {
            true => Err(refused("it ends too early")),
            false => {
                self.0.copy_to_slice(&mut taken);
                Ok(taken)
            }
        }
    }

    fn i16(&mut self) -> Result<i16, Failure> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    fn i32(&mut self) -> Result<i32, Failure> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    fn text(&mut self) -> Result<String, Failure> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| refused("a text in it does not end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Failure::new(
                "22021",
                "invalid byte sequence for encoding \"UTF8\"",
            )),
        }
    }

    fn value(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.i32()? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) if length <= self.0.len() => Ok(Some(self.0.split_to(length))),
                _ => Err(refused("a value ends too late")),
            },
        }
    }

    /// A count of 16 bits without a sign, and so many of them.
    fn list<T>(
        &mut self,
        item: impl Fn(&mut Body) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let count = u16::from_be_bytes(self.take()?);
        (0..count).map(|_| item(self)).collect()
    }

    fn target(&mut self) -> Result<Target, Failure> {
        match self.take::<1>()? {
            [b'S'] => Ok(Target::Statement(self.text()?)),
            [b'P'] => Ok(Target::Portal(self.text()?)),
            [other] => Err(refused(&format!("{other} is no kind of target"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as i32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Option<Message>, Failure> {
        let mut reader = Reader::new(100);
        reader.inbox.extend_from_slice(bytes);
        reader.message()
    }

    #[test]
    fn messages_are_read() {
        let bind = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02hi\xff\xff\xff\xff\0\0";
        let cases: [(u8, &[u8], Message); 9] = [
            (b'Q', b"SELECT 1\0", Message::Query("SELECT 1".into())),
            (
                b'P',
                b"s\0SELECT $1\0\0\x01\0\0\0\x17",
                Message::Parse {
                    name: "s".into(),
                    query: "SELECT $1".into(),
                    types: vec![23],
                },
            ),
            (
                b'B',
                bind,
                Message::Bind {
                    portal: "p".into(),
                    statement: "s".into(),
                    formats: vec![1],
                    values: vec![Some(Bytes::from_static(b"hi")), None],
                    results: vec![],
                },
            ),
            (b'D', b"Pp\0", Message::Describe(Target::Portal("p".into()))),
            (
                b'E',
                b"\0\0\0\0\x05",
                Message::Execute {
                    portal: String::new(),
                    rows: 5,
                },
            ),
            (b'C', b"Ss\0", Message::Close(Target::Statement("s".into()))),
            (b'S', b"", Message::Sync),
            (
                b'd',
                b"a\0b",
                Message::CopyData(Bytes::from_static(b"a\0b")),
            ),
            (b'X', b"", Message::Terminate),
        ];
        for (kind, body, want) in cases {
            let bytes = framed(kind, body);
            assert_eq!(read(&bytes), Ok(Some(want)), "{}", char::from(kind));
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let cases: [(Vec<u8>, &str, bool); 7] = [
            (vec![b'z', 0, 0, 0, 4], "08P01", true),
            (vec![b'Q', 0, 0, 0, 3], "08P01", true),
            (vec![b'D', 0x7f, 0, 0, 0], "08P01", true),
            (framed(b'Q', b"no end"), "08P01", false),
            (framed(b'Q', b"\xff\0"), "22021", false),
            (framed(b'B', b"\0\0\0\0\0\x01\0\0\0\x09x"), "08P01", false),
            (framed(b'S', b"more"), "08P01", false),
        ];
        for (bytes, sqlstate, fatal) in cases {
            match read(&bytes) {
                Err(failure) => assert_eq!((failure.sqlstate, true), (sqlstate, fatal)),
                Ok(Some(Message::Broken { failure, .. })) => {
                    assert_eq!((failure.sqlstate, false), (sqlstate, fatal), "{bytes:?}");
                }
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_statement_that_is_too_long_is_skipped() {
        let mut reader = Reader::new(100);
        let long = framed(b'Q', &[b'x'; 2_000]);
        reader.inbox.extend_from_slice(&long[..1_500]);
        let want = Message::TooLong {
            kind: b'Q',
            bytes: 2_004,
        };
        assert_eq!(reader.message(), Ok(Some(want)));
        assert_eq!(reader.message(), Ok(None));
        assert!(reader.inbox.is_empty());
        reader.inbox.extend_from_slice(&long[1_500..]);
        reader.inbox.extend_from_slice(&framed(b'S', b""));
        assert_eq!(reader.message(), Ok(Some(Message::Sync)));
    }

    #[test]
    fn startup_packets_are_read() {
        let packet = |body: &[u8]| {
            let mut bytes = (body.len() as i32 + 4).to_be_bytes().to_vec();
            bytes.extend(body);
            bytes
        };
        let cases = [
            (packet(&TLS.to_be_bytes()), Some(First::Tls)),
            (packet(&GSS.to_be_bytes()), Some(First::Gss)),
            (
                packet(b"\x04\xd2\x16\x2e\0\0\0\x07key!"),
                Some(First::Cancel {
                    pid: 7,
                    key: Bytes::from_static(b"key!"),
                }),
            ),
            (
                packet(b"\0\x03\0\x02user\0ann\0\0"),
                Some(First::Startup {
                    minor: 2,
                    parameters: vec![("user".into(), "ann".into())],
                }),
            ),
            (vec![0, 0, 0], None),
        ];
        for (bytes, want) in cases {
            let mut reader = Reader::new(100);
            reader.inbox.extend_from_slice(&bytes);
            assert_eq!(reader.first(), Ok(want), "{bytes:?}");
        }
        for bytes in [packet(b"\0\x02\0\0"), packet(b"\0\x03\0\0user"), vec![9; 9]] {
            let mut reader = Reader::new(100);
            reader.inbox.extend_from_slice(&bytes);
            assert!(reader.first().is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic_or_stall(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let mut reader = Reader::new(64);
            reader.inbox.extend_from_slice(&bytes);
            let _ = reader.first();
            let mut reader = Reader::new(64);
            reader.inbox.extend_from_slice(&bytes);
            for _ in 0..=bytes.len() {
                let before = reader.inbox.len();
                match reader.message() {
                    Ok(None) | Err(_) => break,
                    _ => proptest::prop_assert!(reader.inbox.len() < before || reader.skip > 0),
                }
            }
        }
    }
}
