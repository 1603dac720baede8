//! What went wrong at a worker, said at the coordinator as if it had happened there.
//!
//! Takes errors, gives errors whose words carry SQLSTATE, message and hint over the wire, where only words travel; and the
//! other way round. A worker that does not answer any more is an error of its own.

use super::account::Account;
use crate::error::Error;
use datafusion::common::DataFusionError;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use tonic::{Code, Status};

/// Stands before what is carried.
const MARK: &str = "safeguard worker fault: ";

/// Every SQLSTATE that an error of a scan or of a classification can have.
const SQLSTATES: [&str; 33] = [
    "08001", "08006", "08P01", "0A000", "21000", "22003", "22007", "22012", "22023", "2201B",
    "22P02", "22P04", "23502", "28000", "40001", "40003", "42000", "42501", "42703", "42704",
    "42804", "42883", "53100", "53200", "53300", "53400", "54000", "55000", "55P03", "58000",
    "58030", "58P01", "XX001",
];

/// What went wrong, and what had been asked by then.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    sqlstate: String,
    why: String,
    hint: Option<String>,
    /// Of the task that failed.
    pub account: Option<Account>,
}

impl Fault {
    /// What an error carries.
    pub(super) fn of(error: &DataFusionError) -> Option<Fault> {
        let words = error.to_string();
        let at = words.find(MARK)? + MARK.len();
        let found = serde_json::Deserializer::from_str(&words[at..]);
        found.into_iter().next()?.ok()
    }

    fn into_error(self) -> DataFusionError {
        let known = SQLSTATES.into_iter().find(|known| *known == self.sqlstate);
        Error::Refused {
            sqlstate: known.unwrap_or("XX000"),
            why: self.why,
            hint: self.hint,
        }
        .into()
    }
}

/// The error as one that can be sent.
pub(super) fn pack(error: DataFusionError, account: Option<Account>) -> DataFusionError {
    let mut fault = Fault::of(&error).unwrap_or_else(|| {
        let error = Error::Statement(lost(error));
        Fault {
            sqlstate: error.sqlstate().to_owned(),
            why: error.to_string(),
            hint: error.hint(),
            account: None,
        }
    });
    fault.account = account;
    let carried = serde_json::to_string(&fault).expect("bug: a fault that is no JSON");
    DataFusionError::Execution(format!("{MARK}{carried}"))
}

/// The error as it was before it was sent; any other as it is.
pub(super) fn unpack(error: DataFusionError) -> DataFusionError {
    match Fault::of(&error) {
        Some(fault) => fault.into_error(),
        None => lost(error),
    }
}

/// A worker ended, or cannot be reached any more.
pub(super) fn gone(why: &str) -> DataFusionError {
    Error::Refused {
        sqlstate: "08006",
        why: format!("a worker was lost: {why}"),
        hint: Some("run the statement again: what was judged is stored".to_owned()),
    }
    .into()
}

/// The error, in words of ours where it is the transport's.
fn lost(error: DataFusionError) -> DataFusionError {
    let whole: &(dyn std::error::Error + 'static) = &error;
    let mut within = std::iter::successors(Some(whole), |error| error.source());
    let Some(status) = within.find_map(|error| error.downcast_ref::<Status>()) else {
        return error;
    };
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Error::Refused {
            sqlstate: "28000",
            why: "a worker does not know the token".to_owned(),
            hint: Some("SAFEGUARD_WORKER_TOKEN must be the same everywhere".to_owned()),
        }
        .into(),
        _ => gone(status.message()),
    }
}

/// The top of a plan with stages: its errors are as those of one process.
#[derive(Debug)]
pub(super) struct FaultsExec {
    input: Arc<dyn ExecutionPlan>,
}

impl FaultsExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>) -> FaultsExec {
        FaultsExec { input }
    }
}

impl DisplayAs for FaultsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("FaultsExec")
    }
}

impl ExecutionPlan for FaultsExec {
    fn name(&self) -> &str {
        "FaultsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(FaultsExec::new(children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context).map_err(unpack)?;
        let schema = rows.schema();
        let rows = rows.map_err(unpack);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safeguard_udfs::ClassifyError;

    #[test]
    fn a_fault_arrives_as_it_left_whatever_is_wrapped_around_it() {
        let unknown = ClassifyError::UnknownPolicy {
            name: "hat".to_owned(),
            near: vec!["hate".to_owned()],
        };
        let left = DataFusionError::External(Box::new(unknown));
        let said = Error::Statement(DataFusionError::Execution(left.to_string())).to_string();
        let sent = pack(left, None);
        let wrapped = DataFusionError::External(sent.to_string().into());
        let wrapped = pack(wrapped.context("stage 2"), None);
        let arrived = Error::Statement(unpack(wrapped));
        assert_eq!(arrived.sqlstate(), "42704");
        assert_eq!(arrived.hint().as_deref(), Some("did you mean hate?"));
        assert!(said.contains(&arrived.to_string()), "{said}: {arrived}");
    }

    #[test]
    fn a_worker_that_is_gone_is_said_to_be() {
        let of = |status: Status| {
            let error = DataFusionError::Shared(Arc::new(DataFusionError::External(status.into())));
            Error::Statement(unpack(error)).sqlstate()
        };
        assert_eq!(of(Status::unavailable("tcp connect error")), "08006");
        assert_eq!(of(Status::unauthenticated("no token")), "28000");
        let own = DataFusionError::Execution("Divide by zero".to_owned());
        let same = own.to_string();
        assert_eq!(unpack(own).to_string(), same);
    }
}
