//! How fast one core multiplies, by its own processor time: `cargo bench -p safeguard-kernels`.
//!
//! MXFP4 weights of four experts' first product in gpt-oss (N = 5760, K = 2880) with activations of one and two planes,
//! and brain-float weights of one (N = 5120), for every instruction set that the processor has.

use safeguard_kernels::mxfp4::{Matrix, Quantised, product};
use safeguard_kernels::{Isa, dense};

const INPUTS: usize = 2880;
const OUTS: usize = 5760;
const EXPERTS: usize = 4;

/// Seconds of processor time of this thread; wall time where the system does not say.
fn seconds() -> f64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = spent.and_then(|text| text.split(' ').next().and_then(|n| n.parse().ok()));
    let wall = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0.0, |d| d.as_secs_f64() * 1e9)
    };
    nanoseconds.unwrap_or_else(wall) / 1e9
}

/// Thousand millions of products a second; the first call only warms up.
fn rate(products: usize, mut work: impl FnMut()) -> f64 {
    work();
    let (begun, mut times) = (seconds(), 0);
    while times < 2 || seconds() - begun < 0.5 {
        work();
        times += 1;
    }
    (products * times) as f64 / (seconds() - begun) / 1e9
}

fn main() {
    // All work on this thread, whose time is measured.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global();
    pool.expect("one thread");
    let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 9) as u8;
    let blocks: Vec<u8> = (0..EXPERTS * OUTS * INPUTS / 2).map(byte).collect();
    let scales: Vec<u8> = (0..EXPERTS * OUTS * INPUTS / 32)
        .map(|i| 118 + byte(i) % 8)
        .collect();
    let dense_weights: Vec<u8> = (0..5120 * INPUTS).flat_map(|i| [byte(i), 0x3c]).collect();
    println!("set          M   int8   int16   bf16   (GMAC/s of one core)");
    for isa in Isa::present()
        .into_iter()
        .filter(|isa| *isa != Isa::Portable)
    {
        for m in [1, 4, 8, 16, 32, 64, 128, 512] {
            let x: Vec<f32> = (0..m * INPUTS)
                .map(|i| ((i * 7919) % 1009) as f32 / 500.0 - 1.0)
                .collect();
            let mut y = vec![0.0; m * OUTS];
            let [int8, int16] = [1, 2].map(|planes| {
                let x = Quantised::new(isa, &x, INPUTS, planes).tiles(0..m);
                rate(EXPERTS * m * OUTS * INPUTS, || {
                    for expert in 0..EXPERTS {
                        let size = OUTS * INPUTS;
                        let matrix = Matrix {
                            blocks: &blocks[expert * size / 2..(expert + 1) * size / 2],
                            scales: &scales[expert * size / 32..(expert + 1) * size / 32],
                            cols: INPUTS,
                        };
                        product(isa, &x, matrix, &mut y);
                    }
                })
            });
            let mut y = vec![0.0; m * 5120];
            let bf16 = rate(m * 5120 * INPUTS, || {
                dense::product(isa, &x, &dense_weights, INPUTS, None, &mut y);
            });
            println!(
                "{:<11} {m:>3} {int8:>6.0} {int16:>7.0} {bf16:>6.0}",
                isa.name()
            );
        }
    }
}
