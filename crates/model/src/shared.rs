//! One engine for the detectors of a process that have the same graph on the same device with the same threads, and what
//! waits for it.
//!
//! Every detector cuts and scales its own frames and reads its own maps, with no lock held. Its views, in a buffer of
//! their own, are put into a queue. Whoever finds the engine idle takes it and the oldest views that wait, as many as may
//! go together, lets go of the lock, and runs them at once; whose views ride along waits for the answer. Nobody waits for
//! company: views that come alone are run alone, at once. What comes during a run goes into the next one, so a view waits
//! for the run under way and its own, unless more wait than go together.
//!
//! A view is a frame, or a tile of one, at the network's size: cameras of different sizes and formats go together, and a
//! frame of many tiles is run in several portions, between which others have their turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::detector::DetectorOptions;
use crate::device::Device;
use crate::engine::{Engine, Outcome};
use crate::error::ModelError;
use crate::package::{Package, Size};

/// A detector's part in a shared engine, for whoever owns the detector: what it costs, and a way out of the queue.
#[derive(Debug, Clone)]
pub struct Sharing(Arc<Member>);

/// What a shared engine did so far, for all who share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharingStats {
    /// Views that may go together.
    pub batch: usize,
    /// Detectors that share the engine.
    pub detectors: usize,
    /// Runs of the graph.
    pub runs: u64,
    /// Views in these runs.
    pub views: u64,
}

#[derive(Debug)]
struct Member {
    shared: Arc<Shared>,
    interrupted: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    batch: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue {
    /// Away while it runs.
    engine: Option<Engine>,
    waiting: VecDeque<Job>,
    runs: u64,
    views: u64,
}

/// Views of one detector.
#[derive(Debug)]
struct Job {
    rgb: Vec<u8>,
    views: usize,
    answer: Arc<Mutex<Option<Answer>>>,
}

/// The buffer comes back with the outcome.
#[derive(Debug)]
struct Answer {
    rgb: Vec<u8>,
    outcome: Outcome,
}

/// One run: the engine, and whose views go in. Dropped, it brings the engine back and leaves nobody without an answer.
struct Turn<'a> {
    shared: &'a Shared,
    engine: Option<Engine>,
    jobs: Vec<Job>,
    runs: u64,
    views: u64,
}

/// Everything that makes engines equal.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    onnx_sha256: String,
    input_size: Size,
    device: Device,
    device_id: u32,
    threads: usize,
    batch: usize,
}

/// Its lock is held while the engine is loaded: who wants the same one waits for it instead of loading a second.
type Entry = Arc<Mutex<Weak<Shared>>>;

/// The engines in use. It keeps none alive.
static REGISTRY: Mutex<Vec<(Key, Entry)>> = Mutex::new(Vec::new());

impl Sharing {
    /// Joins those that run this graph already, or loads it.
    pub(crate) fn join(
        package: &Package,
        options: &DetectorOptions,
        device: Device,
        batch: usize,
    ) -> Result<Self, ModelError> {
        let key = Key {
            onnx_sha256: package.info().onnx_sha256.clone(),
            input_size: package.info().input_size,
            device,
            device_id: options.device_id,
            threads: options.threads,
            batch,
        };
        let entry = entry(key);
        let mut loaded = locked(&entry);
        let shared = match loaded.upgrade() {
            Some(shared) => shared,
            None => {
                let engine = Engine::open_shared(package, options, device)?;
                let queue = Queue { engine: Some(engine), waiting: VecDeque::new(), runs: 0, views: 0 };
                let shared = Arc::new(Shared { batch, queue: Mutex::new(queue), changed: Condvar::new() });
                *loaded = Arc::downgrade(&shared);
                shared
            }
        };
        Ok(Self(Arc::new(Member { shared, interrupted: AtomicBool::new(false) })))
    }

    /// Lets a detection that waits for the engine end at once with [`ModelError::Interrupted`], and all that follow, until
    /// the interruption is taken back. A run under way is finished: others have a part in it.
    pub fn interrupt(&self, interrupted: bool) {
        self.0.interrupted.store(interrupted, Ordering::Release);
        // Whoever has looked at the flag before is waiting by the time the lock is free.
        drop(locked(&self.0.shared.queue));
        self.0.shared.changed.notify_all();
    }

    /// What the engine did so far.
    pub fn stats(&self) -> SharingStats {
        let shared = &self.0.shared;
        let queue = locked(&shared.queue);
        SharingStats { batch: shared.batch, detectors: Arc::strong_count(shared), runs: queue.runs, views: queue.views }
    }

    /// Views that may go together.
    pub(crate) fn batch(&self) -> usize {
        self.0.shared.batch
    }

    /// Runs the graph on these views, together with others' where there are any.
    pub(crate) fn run(&self, rgb: &mut Vec<u8>, views: usize) -> Outcome {
        let Member { shared, interrupted } = &*self.0;
        let answer = Arc::new(Mutex::new(None));
        let job = Job { rgb: std::mem::take(rgb), views, answer: Arc::clone(&answer) };
        let mut queue = locked(&shared.queue);
        queue.waiting.push_back(job);
        loop {
            if let Some(answer) = locked(&answer).take() {
                *rgb = answer.rgb;
                return answer.outcome;
            }
            if interrupted.load(Ordering::Acquire) {
                // Where the views are in a run already, their answer is for nobody.
                queue.waiting.retain(|job| !Arc::ptr_eq(&job.answer, &answer));
                return Err(ModelError::Interrupted);
            }
            queue = match shared.turn(&mut queue) {
                Some(turn) => {
                    drop(queue);
                    turn.run();
                    locked(&shared.queue)
                }
                None => shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Shared {
    /// The engine and the oldest views, when both are there.
    fn turn(&self, queue: &mut Queue) -> Option<Turn<'_>> {
        if queue.waiting.is_empty() {
            return None;
        }
        let engine = queue.engine.take()?;
        let mut jobs = Vec::new();
        let mut views = 0;
        while let Some(job) = queue.waiting.pop_front_if(|job| jobs.is_empty() || views + job.views <= self.batch) {
            views += job.views;
            jobs.push(job);
        }
        Some(Turn { shared: self, engine: Some(engine), jobs, runs: 0, views: 0 })
    }
}

impl Turn<'_> {
    fn run(mut self) {
        if !self.run_together() {
            self.run_singly();
        }
    }

    /// Says whether everybody has an answer: one whose views are refused must not cost the others theirs.
    fn run_together(&mut self) -> bool {
        let Some(engine) = self.engine.as_mut().filter(|_| self.jobs.len() > 1) else { return false };
        let views = self.jobs.iter().map(|job| job.views).sum();
        let rgb: Vec<u8> = self.jobs.iter().flat_map(|job| job.rgb.iter().copied()).collect();
        self.runs += 1;
        let Ok(outcomes) = engine.run(&rgb, views) else { return false };
        self.views += views as u64;
        let mut outcomes = outcomes.into_iter();
        for job in self.jobs.drain(..) {
            let own = outcomes.by_ref().take(job.views).collect();
            job.answer(Ok(own));
        }
        true
    }

    fn run_singly(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        for job in self.jobs.drain(..) {
            let outcome = engine.run(&job.rgb, job.views);
            self.runs += 1;
            self.views += job.views as u64;
            job.answer(outcome);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        for job in self.jobs.drain(..) {
            job.answer(Err(ModelError::Inference("the run was given up".to_owned())));
        }
        let mut queue = locked(&self.shared.queue);
        queue.engine = self.engine.take();
        queue.runs += self.runs;
        queue.views += self.views;
        drop(queue);
        self.shared.changed.notify_all();
    }
}

impl Job {
    fn answer(self, outcome: Outcome) {
        *locked(&self.answer) = Some(Answer { rgb: self.rgb, outcome });
    }
}

fn entry(key: Key) -> Entry {
    let mut registry = locked(&REGISTRY);
    // What nobody holds and nobody is loading is forgotten.
    registry.retain(|(_, entry)| {
        Arc::strong_count(entry) > 1 || entry.try_lock().map_or(true, |loaded| loaded.strong_count() > 0)
    });
    if let Some((_, entry)) = registry.iter().find(|(known, _)| *known == key) {
        return Arc::clone(entry);
    }
    let entry = Entry::default();
    registry.push((key, Arc::clone(&entry)));
    entry
}

/// Locks even after a panic elsewhere: everything here is valid between statements.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members of an engine that is away in an endless run.
    fn members(count: usize) -> Vec<Sharing> {
        let queue = Queue { engine: None, waiting: VecDeque::new(), runs: 0, views: 0 };
        let shared = Arc::new(Shared { batch: 4, queue: Mutex::new(queue), changed: Condvar::new() });
        let member = || Member { shared: Arc::clone(&shared), interrupted: AtomicBool::new(false) };
        (0..count).map(|_| Sharing(Arc::new(member()))).collect()
    }

    fn wait_until_waiting(sharing: &Sharing, count: usize) {
        while locked(&sharing.0.shared.queue).waiting.len() != count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_is_interrupted_leaves_the_queue_at_once_and_the_others_stay() {
        let members = members(2);
        std::thread::scope(|scope| {
            let waits = members.clone().into_iter().map(|member| scope.spawn(move || member.run(&mut vec![0], 1)));
            let mut waits: Vec<_> = waits.collect();
            wait_until_waiting(&members[0], 2);
            members[0].interrupt(true);
            assert!(matches!(waits.remove(0).join().unwrap(), Err(ModelError::Interrupted)));
            wait_until_waiting(&members[1], 1);
            assert!(matches!(members[0].run(&mut vec![0], 1), Err(ModelError::Interrupted)), "until it is taken back");
            assert!(!waits[0].is_finished());
            members[1].interrupt(true);
            assert!(matches!(waits.remove(0).join().unwrap(), Err(ModelError::Interrupted)));
        });
    }

    #[test]
    fn an_engine_that_fails_in_the_middle_leaves_nobody_waiting() {
        let members = members(1);
        let shared = &members[0].0.shared;
        std::thread::scope(|scope| {
            let member = members[0].clone();
            let wait = scope.spawn(move || {
                let mut rgb = vec![7];
                let outcome = member.run(&mut rgb, 1);
                (rgb, outcome)
            });
            wait_until_waiting(&members[0], 1);
            let jobs: Vec<Job> = locked(&shared.queue).waiting.drain(..).collect();
            drop(Turn { shared, engine: None, jobs, runs: 0, views: 0 });
            let (rgb, outcome) = wait.join().unwrap();
            assert_eq!(rgb, [7], "the buffer comes back");
            assert!(matches!(outcome, Err(ModelError::Inference(_))));
        });
    }

    #[test]
    fn a_number_for_the_batch_counts_everywhere_and_none_only_where_it_is_faster() {
        use crate::detector::Batch;
        let four = Batch::UpTo(std::num::NonZeroUsize::MIN.saturating_add(3));
        for device in [Device::Cpu, Device::OpenVino, Device::Cuda, Device::TensorRt] {
            let gpu = matches!(device, Device::Cuda | Device::TensorRt);
            assert_eq!(Batch::Auto.on(device), if gpu { 8 } else { 1 });
            assert_eq!((Batch::Own.on(device), four.on(device)), (1, 4));
        }
    }
}
