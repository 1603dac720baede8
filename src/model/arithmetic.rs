//! What gpt-oss computes where `config.json` says nothing.
//!
//! The constants and orders below are fixed by the architecture. They are values, not literals, for one reason: the
//! parity gate has to be shown to catch each known mistake in them, by making the mistake.

/// How router logits become the weights of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Softmax over the chosen experts: gpt-oss.
    SoftmaxOverChosen,
    /// Mistake: softmax over all experts.
    SoftmaxOverAll,
    /// Mistake: each logit's own sigmoid.
    Sigmoid,
}

/// Where an expert's output bias is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownBias {
    /// Before the expert's weight is applied: gpt-oss.
    BeforeWeight,
    /// Mistake: after it.
    AfterWeight,
}

/// What the experts' activations are rounded to before they meet the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Nothing: f32 throughout. Slow; what parity is measured with.
    Exact,
    /// Sixteen bits, each 32 with a scale of their own: what serves.
    Int16,
    /// Eight bits: faster, and a text in a few hundred gets another probability, as experts near a tie change places.
    Int8,
}

impl Precision {
    /// Planes of eight bits; none where nothing is rounded.
    pub(super) fn planes(self) -> Option<usize> {
        match self {
            Precision::Exact => None,
            Precision::Int16 => Some(2),
            Precision::Int8 => Some(1),
        }
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Exact => "exact",
            Precision::Int16 => "int16",
            Precision::Int8 => "int8",
        }
    }
}

/// The architecture's own constants. [`Default`] is gpt-oss; anything else is a mistake made on purpose, in a test.
#[derive(Debug, Clone, PartialEq)]
pub struct Arithmetic {
    /// Steepness of the gate's sigmoid: 1.702.
    pub swiglu_alpha: f32,
    /// Added to the linear part: 1.
    pub up_offset: f32,
    /// Weights of the chosen experts.
    pub routing: Routing,
    /// Place of the output bias.
    pub down_bias: DownBias,
}

impl Default for Arithmetic {
    fn default() -> Arithmetic {
        Arithmetic {
            swiglu_alpha: 1.702,
            up_offset: 1.0,
            routing: Routing::SoftmaxOverChosen,
            down_bias: DownBias::BeforeWeight,
        }
    }
}
