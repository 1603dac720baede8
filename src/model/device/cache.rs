//! Keys and values on a device.
//!
//! A pool holds the keys and values of all sequences, one place for each token and layer, so that a whole batch writes
//! and reads with one product of indices. A sequence owns places; a clone shares them, and the first clone to go on
//! turns them into a prefix: keys and values side by side, once, for every sequence that continues it. Places return
//! to the pool when their owner goes. Knows shapes and windows, not where keys come from.

use super::super::{Config, LayerType, ModelError};
use super::places::{Free, Run, runs};
use candle_core::{DType, Device, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places that a pool begins with.
const PLACES_MIN: usize = 1 << 10;

/// What one sequence has seen. A clone shares storage with its original and never disturbs it.
#[derive(Debug, Clone)]
pub struct DeviceCache {
    prefix: Option<Arc<Prefix>>,
    own: Arc<Own>,
}

/// Keys and values that many sequences continue.
#[derive(Debug)]
pub struct Prefix {
    /// Tokens in it.
    pub len: usize,
    /// One for each layer.
    pub layers: Vec<PrefixLayer>,
}

/// One layer of a prefix: of a sliding layer only what later queries can see.
#[derive(Debug)]
pub struct PrefixLayer {
    /// `[kv_heads, head_dim, kept]`: transposed, as products with queries want it.
    pub keys: Tensor,
    /// `[kv_heads, kept, head_dim]`.
    pub values: Tensor,
}

/// Places of the pool, or what became of them.
#[derive(Debug)]
struct Own {
    pool: Arc<Pool>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Places(Vec<u32>),
    Frozen(Arc<Prefix>),
}

/// Storage for the keys and values of sequences.
#[derive(Debug)]
pub struct Pool {
    shape: Shape,
    device: Device,
    stored: Mutex<Stored>,
}

#[derive(Debug)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    layer_types: Vec<LayerType>,
    window: usize,
    places_max: usize,
}

/// Keys and values of every layer, `[places, kv_heads * head_dim]` each.
#[derive(Debug)]
struct Stored {
    layers: Vec<(Tensor, Tensor)>,
    free: Free,
}

/// How the rows of a step go to their places.
#[derive(Debug)]
pub struct Writes {
    by_place: Tensor,
    runs: Vec<Run>,
}

impl Writes {
    /// Writes `rows` `[n, width]` to `stored` `[places, width]`, in its type.
    pub fn apply(&self, stored: &Tensor, rows: &Tensor) -> Result<(), ModelError> {
        let rows = rows
            .to_dtype(stored.dtype())?
            .index_select(&self.by_place, 0)?;
        for run in &self.runs {
            let rows = rows.narrow(0, run.rows.start, run.rows.len())?;
            stored.slice_set(&rows, 0, run.place)?;
        }
        Ok(())
    }
}

impl DeviceCache {
    /// An empty sequence.
    pub fn new(pool: &Arc<Pool>) -> DeviceCache {
        DeviceCache {
            prefix: None,
            own: Own::new(pool, Vec::new()),
        }
    }

    /// Tokens in the sequence so far.
    pub fn len(&self) -> usize {
        let own = match &*self.own.state() {
            State::Places(places) => places.len(),
            State::Frozen(prefix) => prefix.len,
        };
        self.prefix.as_ref().map_or(0, |prefix| prefix.len) + own
    }

    /// Whether the sequence has no token yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the keys and values it holds, those shared with others included.
    pub fn bytes(&self) -> usize {
        self.len() * self.own.pool.place_bytes()
    }

    /// Whether its keys are in this pool.
    pub fn fits(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.own.pool, pool)
    }

    /// The prefix that it continues.
    pub fn prefix(&self) -> Option<&Arc<Prefix>> {
        self.prefix.as_ref()
    }

    /// Makes room for `tokens` more that nobody else sees; all its own places, the new ones last.
    pub fn reserve(&mut self, tokens: usize) -> Result<Vec<u32>, ModelError> {
        self.settle()?;
        let pool = Arc::clone(&self.own.pool);
        let new = pool.take(tokens)?;
        match &mut *self.own.state() {
            State::Places(places) => {
                places.extend(new);
                Ok(places.clone())
            }
            State::Frozen(_) => panic!("bug: a sequence goes on in a frozen part"),
        }
    }

    /// Makes the own part one that nobody shares: a shared one becomes the prefix, or is copied where there is one.
    fn settle(&mut self) -> Result<(), ModelError> {
        let alone = Arc::strong_count(&self.own) == 1;
        let pool = Arc::clone(&self.own.pool);
        let own = match &*self.own.state() {
            State::Places(places) if alone || places.is_empty() => {
                if alone {
                    return Ok(());
                }
                None
            }
            State::Places(places) if self.prefix.is_some() => Some(pool.copied(places)?),
            _ => None,
        };
        match own {
            Some(places) => self.own = Own::new(&pool, places),
            None => {
                if let Some(frozen) = self.own.frozen()? {
                    assert!(self.prefix.is_none(), "bug: a prefix behind a prefix");
                    self.prefix = Some(frozen);
                }
                self.own = Own::new(&pool, Vec::new());
            }
        }
        Ok(())
    }
}

impl Own {
    fn new(pool: &Arc<Pool>, places: Vec<u32>) -> Arc<Own> {
        Arc::new(Own {
            pool: Arc::clone(pool),
            state: Mutex::new(State::Places(places)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part as a prefix, made at the first call; none where it is empty.
    fn frozen(&self) -> Result<Option<Arc<Prefix>>, ModelError> {
        let mut state = self.state();
        let prefix = match &mut *state {
            State::Frozen(prefix) => return Ok(Some(Arc::clone(prefix))),
            State::Places(places) if places.is_empty() => return Ok(None),
            State::Places(places) => {
                let prefix = Arc::new(self.pool.gathered(places)?);
                self.pool.give(&mut places.drain(..));
                prefix
            }
        };
        *state = State::Frozen(Arc::clone(&prefix));
        Ok(Some(prefix))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Places(places) = state {
            self.pool.give(&mut places.drain(..));
        }
    }
}

impl Pool {
    /// An empty pool that grows up to `bytes_max`.
    pub fn new(
        config: &Config,
        dtype: DType,
        device: &Device,
        bytes_max: usize,
    ) -> Result<Pool, ModelError> {
        let mut pool = Pool {
            shape: Shape {
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                dtype,
                layer_types: config.layer_types.clone(),
                window: config.sliding_window,
                places_max: 0,
            },
            device: device.clone(),
            stored: Mutex::new(Stored {
                layers: Vec::new(),
                free: Free::default(),
            }),
        };
        pool.shape.places_max = bytes_max / pool.place_bytes();
        Ok(pool)
    }

    /// Bytes of one token's keys and values in all layers.
    pub fn place_bytes(&self) -> usize {
        2 * self.shape.layer_types.len() * self.width() * self.shape.dtype.size_in_bytes()
    }

    fn width(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys and values of one layer, `[places, kv_heads * head_dim]` each. Valid until places are taken or given.
    pub fn layer(&self, layer: usize) -> (Tensor, Tensor) {
        self.stored().layers[layer].clone()
    }

    fn take(&self, count: usize) -> Result<Vec<u32>, ModelError> {
        let mut stored = self.stored();
        if stored.free.count() < count {
            self.grow(&mut stored, count)?;
        }
        Ok(stored.free.take(count))
    }

    fn give(&self, places: &mut dyn Iterator<Item = u32>) {
        let mut stored = self.stored();
        places.for_each(|place| stored.free.give(place..place + 1));
    }

    /// How one row for each of `places` is written.
    pub fn writes(&self, places: &[u32]) -> Result<Writes, ModelError> {
        let (by_place, runs) = runs(places);
        let by_place = self.indices(&by_place)?;
        Ok(Writes { by_place, runs })
    }

    /// At least doubles the places, so that copying what is there stays cheap for each token.
    fn grow(&self, stored: &mut Stored, missing: usize) -> Result<(), ModelError> {
        let had = stored.layers.first().map_or(0, |(keys, _)| keys.dims()[0]);
        let needed = had + missing - stored.free.count();
        let places = needed
            .max(2 * had)
            .max(PLACES_MIN)
            .min(self.shape.places_max);
        if places < needed {
            return Err(ModelError::DeviceKeys {
                tokens: needed,
                limit: self.shape.places_max,
            });
        }
        let grown = |old: Option<&Tensor>| -> Result<Tensor, ModelError> {
            let new = Tensor::zeros((places, self.width()), self.shape.dtype, &self.device)?;
            if let Some(old) = old {
                new.slice_set(old, 0, 0)?;
            }
            Ok(new)
        };
        let layers = (0..self.shape.layer_types.len()).map(|layer| {
            let old = stored.layers.get(layer);
            Ok((grown(old.map(|kv| &kv.0))?, grown(old.map(|kv| &kv.1))?))
        });
        let layers = layers.collect::<Result<Vec<_>, ModelError>>()?;
        stored.layers = layers;
        stored.free.give(had as u32..places as u32);
        Ok(())
    }

    fn indices(&self, places: &[u32]) -> Result<Tensor, ModelError> {
        Ok(Tensor::from_slice(places, places.len(), &self.device)?)
    }

    /// New places that hold what `places` hold.
    fn copied(&self, places: &[u32]) -> Result<Vec<u32>, ModelError> {
        let to = self.take(places.len())?;
        let from = self.indices(places)?;
        let writes = self.writes(&to)?;
        for (keys, values) in &self.stored().layers {
            writes.apply(keys, &keys.index_select(&from, 0)?)?;
            writes.apply(values, &values.index_select(&from, 0)?)?;
        }
        Ok(to)
    }

    /// What `places` hold, side by side.
    fn gathered(&self, places: &[u32]) -> Result<Prefix, ModelError> {
        let len = places.len();
        let (kv_heads, head_dim) = (self.shape.kv_heads, self.shape.head_dim);
        let layer = |(layer_type, (keys, values)): (&LayerType, &(Tensor, Tensor))| {
            // The first query behind the prefix sees its own key and window - 1 more.
            let kept = match layer_type {
                LayerType::Full => len,
                LayerType::Sliding => len.min((self.shape.window - 1).max(1)),
            };
            let places = self.indices(&places[len - kept..])?;
            let shape = (kept, kv_heads, head_dim);
            let keys = keys.index_select(&places, 0)?.reshape(shape)?;
            let values = values.index_select(&places, 0)?.reshape(shape)?;
            Ok(PrefixLayer {
                keys: keys.permute((1, 2, 0))?.contiguous()?,
                values: values.permute((1, 0, 2))?.contiguous()?,
            })
        };
        let stored = self.stored();
        let layers = self.shape.layer_types.iter().zip(&stored.layers);
        Ok(Prefix {
            len,
            layers: layers.map(layer).collect::<Result<_, ModelError>>()?,
        })
    }
}
