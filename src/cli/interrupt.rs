//! Ctrl-C: the first stops what runs, the second the program.

use std::process;
use std::sync::Arc;
use tokio::sync::watch;

/// The exit code of a program that Ctrl-C ended: 128 and SIGINT.
pub(super) const EXIT: u8 = 130;

/// Whether Ctrl-C was pressed and not yet answered.
#[derive(Debug, Clone)]
pub(super) struct Interrupts(Arc<watch::Sender<bool>>);

impl Interrupts {
    /// Takes Ctrl-C over for the rest of the program. Needs a runtime.
    pub fn listen() -> Interrupts {
        let interrupts = Interrupts(Arc::new(watch::Sender::new(false)));
        let pressed = Arc::clone(&interrupts.0);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                if pressed.send_replace(true) {
                    process::exit(i32::from(EXIT));
                }
            }
        });
        interrupts
    }

    /// Waits for Ctrl-C; returns at once when it was pressed since the last [`answered`](Self::answered).
    pub async fn pressed(&self) {
        let mut pressed = self.0.subscribe();
        // The sender lives as long as `self`, so this ends only with a press.
        let _ = pressed.wait_for(|pressed| *pressed).await;
    }

    /// Forgets a press, so that the next one stops something again.
    pub fn answered(&self) {
        self.0.send_replace(false);
    }
}
