//! The SQL functions: names, signatures, types and documentation. One operator answers them all.
//!
//! They are never invoked (`safeguard_digest`, which asks nothing, is an ordinary function beside them): `hoist` replaces
//! each call by a column of a `Classify` node. Where it cannot, invoking one
//! is a clean "not supported" rather than a slow or a wrong answer.

use crate::{digest, verdict};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::{
    ColumnarValue, DocSection, Documentation, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

/// What a call gives for a (policy, text).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Output {
    Label,
    Violates,
    Score,
    Verdict,
    Tokens,
}

impl Output {
    pub(crate) const ALL: [Output; 5] = [
        Output::Label,
        Output::Violates,
        Output::Score,
        Output::Verdict,
        Output::Tokens,
    ];

    pub(crate) fn function(self) -> &'static str {
        match self {
            Output::Label => "safeguard_classify",
            Output::Violates => "safeguard_violates",
            Output::Score => "safeguard_score",
            Output::Verdict => "safeguard_verdict",
            Output::Tokens => "safeguard_tokens",
        }
    }

    pub(crate) fn data_type(self) -> DataType {
        match self {
            Output::Label => DataType::Utf8,
            Output::Violates => DataType::Boolean,
            Output::Score => DataType::Float64,
            Output::Verdict => verdict::data_type(),
            Output::Tokens => DataType::Int64,
        }
    }

    /// Whether the classifier has to judge for it; the token count does not.
    pub(crate) fn judges(self) -> bool {
        self != Output::Tokens
    }

    fn description(self) -> &'static str {
        match self {
            Output::Label => {
                "The label of a text under a policy: one of the policy's labels, or 'undecided'. NULL only for a NULL text."
            }
            Output::Violates => "Whether a text violates a policy. NULL when undecided.",
            Output::Score => {
                "P(not the policy's allowed label) in 0..1; NULL when undecided or where the backend gives none. \
                 Calibrated only where a calibration exists."
            }
            Output::Verdict => {
                "The whole verdict: label, violates, score, rationale, rules, reason, stage, policy, model, judged_at."
            }
            Output::Tokens => {
                "Prompt tokens that judging a text under a policy would cost. Asks no model."
            }
        }
    }
}

/// Which output an expression calls for, if it is one of these functions.
pub(crate) fn as_call(expr: &Expr) -> Option<(Output, &[Expr])> {
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    let function = call.func.inner().as_ref() as &dyn std::any::Any;
    function
        .downcast_ref::<Function>()
        .map(|f| (f.output, call.args.as_slice()))
}

/// Every function, for a registry.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    Output::ALL
        .into_iter()
        .map(|output| Arc::new(ScalarUDF::new_from_impl(Function::new(output))))
        .chain([Arc::new(digest::function())])
        .collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    output: Output,
    signature: Signature,
}

impl Function {
    fn new(output: Output) -> Self {
        // Volatile, so that until it is hoisted no rule copies it, folds it or offers it to a table provider.
        Self {
            output,
            signature: Signature::string(2, Volatility::Volatile),
        }
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.output.function()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.output.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        not_impl_err!(
            "{} cannot be evaluated here; call it in a SELECT over a table or subquery",
            self.name()
        )
    }

    fn documentation(&self) -> Option<&Documentation> {
        static DOCUMENTATION: LazyLock<Vec<Documentation>> =
            LazyLock::new(|| Output::ALL.into_iter().map(document).collect());
        DOCUMENTATION.get(self.output as usize)
    }
}

fn document(output: Output) -> Documentation {
    let section = DocSection {
        include: true,
        label: "Safeguard",
        description: None,
    };
    let syntax = format!("{}(policy, text)", output.function());
    Documentation::builder(section, output.description(), syntax)
        .with_argument(
            "policy",
            "a policy's name, a pinned version 'name@3', or a policy text (it holds a newline)",
        )
        .with_argument("text", "what is judged")
        .build()
}
