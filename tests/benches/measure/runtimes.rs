//! The runtimes as every benchmark starts them.

use std::{future::pending, io, num::NonZeroUsize, sync::Arc, thread};

use smol::{Executor, block_on};

/// tokio, with so many workers.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers.get()).enable_all().build()
}

/// smol, with so many workers, the calling thread among them, as wirestate-smol has it: what `run`
/// makes of the executor, to its end.
pub(crate) fn smol<F>(
    workers: NonZeroUsize,
    run: impl FnOnce(Arc<Executor<'static>>) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let executor = Arc::new(Executor::new());
    for _ in 1..workers.get() {
        let executor = Arc::clone(&executor);
        thread::Builder::new().spawn(move || block_on(executor.run(pending::<()>())))?;
    }
    // A task, it is polled when it is woken itself, and not whenever this thread is.
    let task = executor.spawn(run(Arc::clone(&executor)));
    block_on(executor.run(task))
}
