//! What of the machine's cores is a worker's.

use std::num::NonZeroUsize;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    cores: usize,
    workers: usize,
}

impl Cores {
    /// All that this process may use, divided by so many workers: one or more.
    pub fn shared_by(workers: usize) -> Cores {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Cores { cores, workers }
    }

    /// Consumers of a worker that may wait for clients, or serve them, at a time.
    pub fn seats(self) -> usize {
        self.cores.div_ceil(self.workers)
    }

    /// Workers that share a core.
    pub fn sharers(self) -> usize {
        self.workers.div_ceil(self.cores)
    }

    /// Whether there are more than workers: consumers have some of their own.
    pub fn are_spare(self) -> bool {
        self.cores > self.workers
    }
}
