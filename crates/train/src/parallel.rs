//! Work on several threads whose results come in the order of the questions, so that nothing depends on which thread was
//! faster.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What `work` makes of each number below `count`.
pub(crate) fn in_order<T: Send>(threads: NonZeroUsize, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    in_order_with(vec![(); threads.get().min(count)], count, |(), index| work(index))
}

/// The same where each thread works with a tool of its own.
pub(crate) fn in_order_with<Tool: Send, T: Send>(
    tools: Vec<Tool>,
    count: usize,
    work: impl Fn(&mut Tool, usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for mut tool in tools {
            let (next, results, work) = (&next, &results, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let result = work(&mut tool, index);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|&(index, _)| index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        for threads in [1, 3, 40] {
            let squares = in_order(NonZeroUsize::new(threads).unwrap(), 20, |number| number * number);
            assert_eq!(squares, (0..20).map(|number| number * number).collect::<Vec<_>>());
        }
    }
}
