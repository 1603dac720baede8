//! What a gpt-oss model spends its time on, for CPUs.
//!
//! Takes slices of numbers and of stored weights, gives slices: products with bf16 and MXFP4 weights, attention over
//! blocks of keys, norms, rotations, SwiGLU. Weights are read where they are mapped and are never copied whole.
//!
//! One promise above all: an output element is computed by one fixed sequence of operations that depends on its own
//! inputs alone, neither on the rows beside it, nor on their number, nor on threads, nor on the instruction set. All
//! three instruction sets ([`Isa`]) therefore give the same bits, and tests hold them to it.
//!
//! Knows shapes and numbers; knows no tensors, files, policies or tokens. `unsafe` of the model lives here alone.

pub mod attention;
pub mod dense;
mod lanes;
pub mod mxfp4;
pub mod pointwise;

pub use lanes::Isa;

/// Columns of a row-major matrix that several threads fill, each its own.
#[derive(Clone, Copy)]
struct Columns {
    to: *mut f32,
    stride: usize,
}

// SAFETY: every user writes elements that no other thread touches, see `Columns::set`.
unsafe impl Send for Columns {}
// SAFETY: as above.
unsafe impl Sync for Columns {}

impl Columns {
    fn new(matrix: &mut [f32], stride: usize) -> Columns {
        Columns {
            to: matrix.as_mut_ptr(),
            stride,
        }
    }

    /// # Safety
    /// The element is inside the matrix, which outlives the call, and no other thread reads or writes it meanwhile.
    #[inline(always)]
    unsafe fn at(self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: inside the matrix, as the caller promises.
        unsafe { self.to.add(row * self.stride + column) }
    }
}
