//! Policy and texts in, verdicts out: stages that each implement the port and wrap the next.
//!
//! Takes requests from SQL, gives decisions: [`recall`] answers from the store what was decided before and stores what
//! is decided now, before it is returned; [`reasoner`] puts the rest to the model. In front of both, [`cascade`] says
//! which facts mode `auto` wants, by a threshold that [`calibrate`] chose; [`limits`] says what a role may still ask today; with `safeguard.answer = queue` it is [`queued`]
//! that answers. First of all, [`screen`] decides what a certified screen may, where nothing is stored of the model's; [`forecast`] says what would be asked. There is no other way to the model. Knows policies, the store and a backend; knows nothing of SQL, prompts' format or tensors.

pub mod calibrate;
pub mod cascade;
mod flight;
pub mod forecast;
pub mod limits;
pub mod meter;
pub mod queued;
pub mod reasoner;
pub mod recall;
pub mod screen;
pub mod threshold;

use crate::backend::Backend;
use crate::policy::Registry;
use crate::store::Store;
use crate::waits::Wait;
use std::sync::Arc;

/// What was waited for on the way to verdicts.
#[derive(Debug, Default)]
pub struct Waits {
    /// Replies of the model, with the wait for a place at it.
    pub questions: Wait,
    /// Rows of a source that is read in the background.
    pub sources: Wait,
}

/// The whole stack: the screen, the cascade, then recall, then the reasoner.
pub fn stack(
    policies: Arc<Registry>,
    store: Store,
    backend: Arc<dyn Backend>,
    limits: Arc<limits::DayLimits>,
    waits: Arc<Waits>,
) -> Arc<screen::Screening> {
    let identity = backend.model().clone();
    let reasoner = reasoner::Reasoner::new(Arc::clone(&policies), backend, limits, waits);
    let recall = recall::Recall::new(
        Arc::clone(&policies),
        store.clone(),
        identity.clone(),
        Arc::new(reasoner),
    );
    let cascade = cascade::Cascade::new(policies, store, identity, recall);
    Arc::new(screen::Screening::new(cascade))
}
