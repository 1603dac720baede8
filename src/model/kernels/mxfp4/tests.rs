//! The format by its definition, products by their bounds and their bits.

use super::*;

/// The format's definition, bit by bit.
fn value(nibble: u8, code: u8) -> f64 {
    let (sign, exponent, mantissa) = (nibble >> 3, (nibble >> 1) & 3, nibble & 1);
    let magnitude = match exponent {
        0 => 0.5 * f64::from(mantissa),
        e => (1.0 + 0.5 * f64::from(mantissa)) * f64::from(1 << (e - 1)),
    };
    let signed = if sign == 1 { -magnitude } else { magnitude };
    signed * 2f64.powi(i32::from(code) - 127)
}

fn number(i: usize) -> f32 {
    ((i * 7919 + 13) % 1009) as f32 / 500.0 - 1.0
}

struct Stored {
    blocks: Vec<u8>,
    scales: Vec<u8>,
    cols: usize,
}

impl Stored {
    fn new(rows: usize, cols: usize) -> Stored {
        let byte = |i: usize| ((i * 2_654_435_761) >> 7) as u8;
        Stored {
            blocks: (0..rows * cols / 2).map(byte).collect(),
            scales: (0..rows * cols / BLOCK)
                .map(|i| 120 + byte(i) % 8)
                .collect(),
            cols,
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix {
            blocks: &self.blocks,
            scales: &self.scales,
            cols: self.cols,
        }
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        let byte = self.blocks[(row * self.cols + col) / 2];
        let nibble = if col.is_multiple_of(2) {
            byte & 15
        } else {
            byte >> 4
        };
        value(nibble, self.scales[(row * self.cols + col) / BLOCK])
    }
}

#[test]
fn quantised_products_are_near_and_the_same_in_every_set_and_batch() {
    for (rows, cols, planes) in [
        (16, 32, 1),
        (40, 96, 2),
        (7, 64, 1),
        (192, 2880, 1),
        (192, 2880, 2),
        (33, 192, 2),
    ] {
        let stored = Stored::new(rows, cols);
        let x: Vec<f32> = (0..40 * cols)
            .map(|i| number(i + 3) * (1.0 + (i % 50) as f32))
            .collect();
        let quantised = Quantised::new(Isa::best(), &x, cols, planes);
        let mut all = vec![0.0; 40 * rows];
        product(
            Isa::best(),
            &quantised.tiles(0..40),
            stored.matrix(),
            &mut all,
        );
        for (at, y) in all.iter().enumerate() {
            let (n, row) = (at / rows, at % rows);
            // Half a step of each activation is what rounding may cost.
            let (mut exact, mut bound, mut size) = (0.0, 1e-6, 0.0);
            for col in 0..cols {
                let w = stored.at(row, col);
                exact += f64::from(x[n * cols + col]) * w;
                size += (f64::from(x[n * cols + col]) * w).abs();
                bound += 0.5001 * f64::from(quantised.scales[(n * cols + col) / BLOCK]) * w.abs();
            }
            assert!(
                (exact - f64::from(*y)).abs() <= bound + 1e-6 * size,
                "{rows} {cols} {at}: {exact} {y} {bound}"
            );
        }
        for isa in Isa::present() {
            for n in [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 29] {
                let some = Quantised::new(isa, &x[cols * 4..cols * (4 + n)], cols, planes);
                let mut y = vec![0.0; n * rows];
                let tiles = some.tiles(0..n);
                product(isa, &tiles, stored.matrix(), &mut y);
                assert!(
                    y == all[rows * 4..rows * (4 + n)],
                    "{isa:?} {n} of {rows} {cols}"
                );
                assert!(quantised.tiles(4..4 + n).packed == tiles.packed);
            }
        }
    }
}

#[test]
fn integers_are_exact() {
    // Activations of whole numbers whose largest is 127 are kept; then only f32 sums of integers remain.
    let stored = Stored {
        scales: vec![127; 48 * 2],
        ..Stored::new(48, 64)
    };
    let x: Vec<f32> = (0..64)
        .map(|i| {
            if i % 32 == 0 {
                127.0
            } else {
                (i % 19) as f32 - 9.0
            }
        })
        .collect();
    for isa in Isa::present() {
        let mut y = vec![0.0; 48];
        product(
            isa,
            &Quantised::new(isa, &x, 64, 1).tiles(0..1),
            stored.matrix(),
            &mut y,
        );
        for (row, y) in y.iter().enumerate() {
            let exact: f64 = (0..64)
                .map(|col| f64::from(x[col]) * stored.at(row, col))
                .sum();
            assert_eq!(f64::from(*y), exact, "{isa:?} row {row}");
        }
    }
}

#[test]
fn every_byte_and_scale_unpacks_exactly() {
    for code in [0, 1, 2, 104, 127, 143, 253, 254] {
        for byte in 0..=255u8 {
            let stored = Stored {
                blocks: vec![byte; BLOCK_BYTES],
                scales: vec![code],
                cols: BLOCK,
            };
            let unpacked = brain_floats(stored.matrix());
            for (col, pair) in unpacked.chunks_exact(2).enumerate() {
                let found = f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
                let wide = stored.at(0, col) as f32;
                assert_eq!(found, wide, "{byte} {code} {col}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let mut stored = Stored::new(16, 64);
    stored.scales[3 * 2 + 1] = 255;
    for isa in Isa::present() {
        let (x, mut y) = (vec![1.0; 64], vec![0.0; 16]);
        product(
            isa,
            &Quantised::new(isa, &x, 64, 1).tiles(0..1),
            stored.matrix(),
            &mut y,
        );
        assert!(!y[3].is_finite() && y[2].is_finite(), "{y:?}");
    }

    let stored = Stored {
        blocks: vec![0x22; 16 * 16],
        scales: vec![127; 16],
        cols: 32,
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 7, 31] {
            let mut x = vec![1.0; 32];
            x[at] = bad;
            for (isa, planes) in Isa::present()
                .into_iter()
                .flat_map(|isa| [(isa, 1), (isa, 2)])
            {
                let mut y = vec![0.0; 16];
                let x = Quantised::new(isa, &x, 32, planes).tiles(0..1);
                product(isa, &x, stored.matrix(), &mut y);
                assert!(y.iter().all(|y| !y.is_finite()), "{bad} at {at}: {y:?}");
            }
        }
    }
}
