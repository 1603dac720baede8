//! Policy and texts in, verdicts out: stages that each implement the port and wrap the next.
//!
//! Takes requests from SQL, gives decisions: [`recall`] answers from the store what was decided before and stores what
//! is decided now, before it is returned; [`reasoner`] puts the rest to the model. There is no other way to the model.
//! Knows policies, the store and a backend; knows nothing of SQL, prompts' format or tensors.

mod flight;
pub mod reasoner;
pub mod recall;

use crate::backend::Backend;
use crate::policy::Registry;
use crate::store::Store;
use safeguard_udfs::Classifier;
use std::sync::Arc;

/// The whole stack: recall, then the reasoner.
pub fn stack(
    policies: Arc<Registry>,
    store: Store,
    backend: Arc<dyn Backend>,
) -> Arc<dyn Classifier> {
    let identity = backend.model().clone();
    let reasoner = reasoner::Reasoner::new(Arc::clone(&policies), backend);
    Arc::new(recall::Recall::new(
        policies,
        store,
        identity,
        Arc::new(reasoner),
    ))
}
