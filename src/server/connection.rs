//! One connection after its startup: reads messages, lets the session answer, watches the client meanwhile.
//!
//! Takes a stream of bytes in both directions and a session. While a statement runs the stream is read on, so that a
//! client that goes away ends its statement, and one that sends ahead is not held up. Knows nothing of SQL.

use super::cancel::{Place, Stop, Why};
use super::failure::{Failure, Severity};
use super::frontend::{Message, Reader};
use super::outbox::Outbox;
use super::session::Session;
use crate::config::{SERVER_AHEAD_BYTES_MAX, SERVER_MESSAGE_BYTES_MAX};
use futures::FutureExt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What ends connections when the server stops.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Idle connections end, running statements go on.
    pub soft: CancellationToken,
    /// Running statements end.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Asks to stop; asked again, at once.
    pub fn next(&self) {
        match self.soft.is_cancelled() {
            false => self.soft.cancel(),
            true => self.hard.cancel(),
        }
    }
}

/// A connection that has begun.
pub struct Connection<S> {
    /// Where messages come from.
    pub input: ReadHalf<S>,
    /// What came and is not yet understood.
    pub reader: Reader,
    /// Where answers go.
    pub out: Outbox<WriteHalf<S>>,
    /// What answers.
    pub session: Session,
    /// Where a CancelRequest finds it.
    pub place: Place,
    /// When the server stops.
    pub shutdown: Shutdown,
}

/// What a wait for a message came to.
enum Next {
    Message(Message),
    /// The client went away.
    Left,
    /// The connection is to end.
    End(Failure),
    /// A COPY that awaits data is cancelled.
    Stopped(Failure),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Answers messages until the client leaves or the connection is to end.
    pub async fn run(&mut self) {
        loop {
            let stop = Stop::default();
            self.place.set(self.session.in_copy().then(|| stop.clone()));
            let done = match self.next(&stop).await {
                Next::Message(Message::Terminate) | Next::Left => break,
                Next::Message(message) => self.answer(message, &stop).await,
                Next::Stopped(failure) => self.session.cancel_copy(failure, &mut self.out).await,
                Next::End(failure) => Err(failure),
            };
            if let Err(failure) = done {
                if failure.severity == Severity::Fatal && failure.sqlstate != "08006" {
                    self.out.failure(&failure);
                }
                break;
            }
        }
        self.place.set(None);
        self.session.close().await;
        let counters = &self.session.shared.counters;
        counters.sent.add_many(self.out.sent);
        // A client that does not read its last message is not waited for.
        let last = Instant::now() + Duration::from_secs(1);
        tokio::select! {
            () = self.out.close() => {}
            () = sleep_until(last) => {}
        }
    }

    /// Waits for the next message.
    async fn next(&mut self, stop: &Stop) -> Next {
        let idle = self.session.idle_limit();
        let deadline = idle.as_ref().map(|(most, _)| Instant::now() + *most);
        loop {
            match self.reader.message() {
                Ok(Some(message)) => return Next::Message(message),
                Err(failure) => return Next::End(failure),
                Ok(None) => {}
            }
            let late = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let most = self
                .reader
                .missing()
                .clamp(8 << 10, SERVER_MESSAGE_BYTES_MAX);
            tokio::select! {
                biased;
                () = self.shutdown.soft.cancelled() => {
                    return Next::End(Why::Shutdown.failure());
                }
                why = stop.stopped() => return Next::Stopped(why.failure()),
                read = read(&mut self.input, &mut self.reader, most) => match read {
                    Ok(0) | Err(_) => return Next::Left,
                    Ok(_) => {}
                },
                () = late => {
                    if let Some((_, failure)) = idle {
                        return Next::End(failure);
                    }
                }
            }
        }
    }

    /// Answers a message, and watches the client meanwhile.
    async fn answer(&mut self, message: Message, stop: &Stop) -> Result<(), Failure> {
        self.place.set(Some(stop.clone()));
        let running = &self.session.shared.clone().counters.running;
        running.add();
        let work = self.session.handle(message, &mut self.out, stop);
        // A bug in one statement must not look like a lost network to its client.
        let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
        let (mut watching, mut stopping) = (true, true);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = self.shutdown.hard.cancelled(), if stopping => {
                    stopping = false;
                    stop.stop(Why::Shutdown);
                }
                read = read(&mut self.input, &mut self.reader, 8 << 10), if watching => {
                    match read {
                        Ok(0) | Err(_) => {
                            watching = false;
                            stop.stop(Why::Lost);
                        }
                        Ok(_) => watching = self.reader.inbox.len() < SERVER_AHEAD_BYTES_MAX,
                    }
                }
            }
        };
        drop(work);
        running.subtract();
        self.place.set(None);
        done.unwrap_or_else(|_| {
            // The last message may be half written.
            self.out.bytes.clear();
            Err(Failure::fatal(
                "XX000",
                "internal error: a bug, see the server's log",
            ))
        })
    }
}

async fn read<S: AsyncRead + Unpin>(
    input: &mut S,
    reader: &mut Reader,
    room: usize,
) -> io::Result<usize> {
    reader.inbox.reserve(room.min(1 << 20));
    input.read_buf(&mut reader.inbox).await
}
