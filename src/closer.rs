//! Closes files of a device that may hang, in a thread that nobody waits for.
//! Each device has its own: one that hangs keeps no other's files open.

use crate::sync::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Sender, channel};

type Held = Box<dyn Send>;

/// The threads that there are, by the number of their device's lane.
#[derive(Default)]
pub struct Closer(Mutex<HashMap<u32, Sender<Held>>>);

impl Closer {
    /// Drops it soon; at once where the system has no thread to give.
    pub fn close(&self, lane: u32, held: impl Send + 'static) {
        match self.thread(lane) {
            // It never ends, so it takes all.
            Ok(thread) => drop(thread.send(Box::new(held))),
            Err(e) => log::warn!("files of a busy device are closed at once: {e}"),
        }
    }

    fn thread(&self, lane: u32) -> io::Result<Sender<Held>> {
        let mut threads = self.0.lock();
        if let Some(thread) = threads.get(&lane) {
            return Ok(thread.clone());
        }
        let (give, take) = channel::<Held>();
        std::thread::Builder::new()
            .name("closer".to_owned())
            .spawn(move || {
                take.into_iter().for_each(drop);
            })?;
        threads.insert(lane, give.clone());
        Ok(give)
    }
}
