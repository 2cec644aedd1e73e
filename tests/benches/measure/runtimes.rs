//! Starts tokio, smol and threads in the same way for all benchmarks, and this project's servers on
//! them.

use std::{future::pending, io, num::NonZeroUsize, sync::Arc, thread};

use smol::{Executor, block_on};
use wirestate_core::{
    drive::Splice,
    runtime::{Listener, Runtime},
};
use wirestate_smol::Smol;
use wirestate_std::Threads;
use wirestate_tokio::Tokio;

use super::process::{ANY_PORT, announce};

/// A server of this project.
pub(crate) trait ProjectServer: Send + Sized + 'static {
    /// Runs the server until it is killed.
    fn serve<R: Runtime<Socket: Splice>>(
        self,
        runtime: R,
        listener: R::Listener,
    ) -> impl Future<Output = io::Result<()>> + Send;

    fn on_tokio(self, workers: NonZeroUsize) -> io::Result<()> {
        let tokio = tokio(workers)?;
        let runtime = Tokio::new(tokio.handle().clone());
        tokio.block_on(self.serve_on(runtime))
    }

    fn on_smol(self, workers: NonZeroUsize) -> io::Result<()> {
        smol(workers, |executor| self.serve_on(Smol::new(executor)))
    }

    fn on_threads(self) -> io::Result<()> {
        wirestate_std::block_on(self.serve_on(Threads::new()))
    }

    /// Listens, and announces the address.
    fn serve_on<R: Runtime<Socket: Splice>>(
        self,
        runtime: R,
    ) -> impl Future<Output = io::Result<()>> + Send {
        async move {
            let (host, port) = ANY_PORT;
            let listener = runtime.listen(&format!("{host}:{port}"))?;
            announce(listener.local_address()?.ip().expect("the listener is a TCP socket"))?;
            self.serve(runtime, listener).await
        }
    }
}

/// Starts tokio with this number of workers. A single worker is the calling thread, as in
/// wirestate-tokio on one core.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<tokio::runtime::Runtime> {
    use tokio::runtime::Builder;
    let mut builder = match workers.get() {
        1 => Builder::new_current_thread(),
        count => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(count);
            builder
        }
    };
    builder.enable_all().build()
}

/// Runs the future of `run` to its end on smol, with `workers` threads and the calling thread, as
/// in wirestate-smol.
pub(crate) fn smol<F>(
    workers: NonZeroUsize,
    run: impl FnOnce(Arc<Executor<'static>>) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let executor = Arc::new(Executor::new());
    for _ in 0..workers.get() {
        let executor = Arc::clone(&executor);
        thread::Builder::new().spawn(move || block_on(executor.run(pending::<()>())))?;
    }
    // A task is polled only when it is woken; a future in `block_on`, whenever this thread is.
    let task = executor.spawn(run(Arc::clone(&executor)));
    block_on(executor.run(task))
}
