//! What the server sends: messages gathered, then written.
//!
//! Takes backend messages and rows already in wire form, writes them in large pieces; a writer waits for its reader, so
//! that a slow client holds one piece and no more. Knows PostgreSQL's message formats through pgwire.

use super::failure::{Failure, Severity};
use bytes::{Buf, BytesMut};
use pgwire::error::ErrorInfo;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse};
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Messages on their way to one client.
#[derive(Debug)]
pub struct Outbox<W> {
    socket: W,
    /// Gathered and not yet written.
    pub bytes: BytesMut,
    /// Bytes written so far.
    pub sent: u64,
}

impl<W: AsyncWrite + Unpin> Outbox<W> {
    /// Nothing gathered.
    pub fn new(socket: W) -> Outbox<W> {
        Outbox {
            socket,
            bytes: BytesMut::new(),
            sent: 0,
        }
    }

    /// Adds a message.
    pub fn push(&mut self, message: PgWireBackendMessage) {
        let begin = self.bytes.len();
        if let Err(error) = message.encode(&mut self.bytes) {
            // Longer than the protocol allows: a name or a message text of gigabytes.
            self.bytes.truncate(begin);
            tracing::error!("a message could not be encoded: {error}");
        }
    }

    /// Adds an error or a notice.
    pub fn failure(&mut self, failure: &Failure) {
        let severity = failure.severity.as_str().to_owned();
        let mut info = ErrorInfo::new(
            severity,
            failure.sqlstate.to_owned(),
            failure.message.clone(),
        );
        info.detail = failure.detail.as_deref().map(str::to_owned);
        info.hint.clone_from(&failure.hint);
        info.where_context = failure.context.as_deref().map(str::to_owned);
        info.position = failure.position.map(|p| p.to_string());
        self.push(match failure.severity {
            Severity::Error | Severity::Fatal => {
                PgWireBackendMessage::ErrorResponse(ErrorResponse::from(info))
            }
            Severity::Notice | Severity::Warning => {
                PgWireBackendMessage::NoticeResponse(NoticeResponse::from(info))
            }
        });
    }

    /// Adds the end of a statement.
    pub fn complete(&mut self, tag: String) {
        self.push(PgWireBackendMessage::CommandComplete(CommandComplete::new(
            tag,
        )));
    }

    /// Writes what is gathered.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        // What is written is gone from `bytes` at once: a statement may be stopped while this waits.
        while !self.bytes.is_empty() {
            let written = self.socket.write(&self.bytes).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.bytes.advance(written);
            self.sent += written as u64;
        }
        self.socket.flush().await
    }

    /// Writes what is gathered and says that there will be no more.
    pub async fn close(&mut self) {
        let _ = self.flush().await;
        let _ = self.socket.shutdown().await;
    }
}
