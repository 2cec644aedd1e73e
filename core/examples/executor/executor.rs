//! A small executor for one thread, with sockets and alarms. It knows nothing of Wirestate.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    io::{self, ErrorKind, Read, Write},
    mem,
    os::{fd::AsFd, unix::net::UnixStream},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// The executor. Clones are the same.
#[derive(Clone)]
pub(crate) struct Executor(Rc<State>);

struct State {
    next_id: Cell<usize>,
    spawned: RefCell<Vec<Task>>,
    /// What tasks wait for: by the id of the socket, and whether it is to be writable.
    sockets: RefCell<BTreeMap<(usize, bool), Wait>>,
    /// What tasks wait for: by the time, and the id of the alarm.
    alarms: RefCell<BTreeMap<(Instant, usize), Waker>>,
    woken: Arc<WokenIds>,
    /// Readable once a task was woken.
    interrupted: UnixStream,
}

type Wait = (Rc<dyn AsFd>, Waker);
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The ids of the woken tasks, and what interrupts the wait.
struct WokenIds(Mutex<Vec<usize>>, UnixStream);

/// The waker of one task.
struct Woken(usize, Arc<WokenIds>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let WokenIds(ids, interrupt) = &*self.1;
        ids.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
        let _ = { interrupt }.write(&[0]);
    }
}

impl Executor {
    pub(crate) fn new() -> io::Result<Self> {
        let (interrupted, interrupt) = UnixStream::pair()?;
        interrupted.set_nonblocking(true)?;
        interrupt.set_nonblocking(true)?;
        Ok(Self(Rc::new(State {
            next_id: Cell::new(0),
            spawned: RefCell::default(),
            sockets: RefCell::default(),
            alarms: RefCell::default(),
            woken: Arc::new(WokenIds(Mutex::default(), interrupt)),
            interrupted,
        })))
    }

    fn id(&self) -> usize {
        self.0.next_id.replace(self.0.next_id.get() + 1)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawned.borrow_mut().push(Box::pin(task));
    }

    /// Runs until all tasks have ended. Runs each woken task once, then looks for events.
    pub(crate) fn run(&self) -> io::Result<()> {
        let mut tasks = BTreeMap::new();
        loop {
            let ids = &self.0.woken.0;
            let mut ids = mem::take(&mut *ids.lock().unwrap_or_else(PoisonError::into_inner));
            for task in self.0.spawned.borrow_mut().drain(..) {
                let id = self.id();
                tasks.insert(id, (task, Waker::from(Arc::new(Woken(id, self.0.woken.clone())))));
                ids.push(id);
            }
            for id in &ids {
                if let Some((task, waker)) = tasks.get_mut(id)
                    && task.as_mut().poll(&mut Context::from_waker(waker)).is_ready()
                {
                    tasks.remove(id);
                }
            }
            let has_spawned = !self.0.spawned.borrow().is_empty();
            if tasks.is_empty() && !has_spawned {
                return Ok(());
            }
            self.wait(has_spawned.then_some(Duration::ZERO))?;
        }
    }

    /// Waits, for at most `limit`, and wakes the tasks that wait for what has happened.
    fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        let State { sockets, alarms, interrupted, .. } = &*self.0;
        let next = alarms.borrow().keys().next().map(|(at, _)| *at);
        let until_next = next.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = limit.into_iter().chain(until_next).min();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut sockets = sockets.borrow_mut();
        let mut fds = vec![PollFd::new(interrupted, PollFlags::IN)];
        fds.extend(sockets.iter().map(|((_, writes), (socket, _))| {
            let events = if *writes { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd((**socket).as_fd(), events)
        }));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let woken = sockets.extract_if(.., |_, _| ready.next() == Some(true));
        woken.for_each(|(_, (_, waker))| waker.wake());
        let due = ..=(Instant::now(), usize::MAX);
        alarms.borrow_mut().extract_if(due, |_, _| true).for_each(|(_, waker)| waker.wake());
        let _ = { interrupted }.read(&mut [0; 64]);
        Ok(())
    }
}

/// A non-blocking socket.
pub(crate) struct Async<T: AsFd + 'static> {
    pub(crate) socket: Rc<T>,
    id: usize,
    executor: Executor,
}

impl<T: AsFd> Async<T> {
    pub(crate) fn new(socket: T, executor: &Executor) -> Self {
        Self { socket: Rc::new(socket), id: executor.id(), executor: executor.clone() }
    }

    /// Calls `io`. If it would block, the task is woken once the socket is ready.
    pub(crate) fn poll<R>(
        &self,
        cx: &mut Context<'_>,
        writes: bool,
        io: impl FnOnce(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        match io(&self.socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let wait = (self.socket.clone() as Rc<dyn AsFd>, cx.waker().clone());
                self.executor.0.sockets.borrow_mut().insert((self.id, writes), wait);
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }
}

impl<T: AsFd> Drop for Async<T> {
    fn drop(&mut self) {
        let mut sockets = self.executor.0.sockets.borrow_mut();
        sockets.remove(&(self.id, false));
        sockets.remove(&(self.id, true));
    }
}

/// Wakes a task at a time.
pub(crate) struct Alarm {
    id: usize,
    time: Option<Instant>,
    executor: Executor,
}

impl Alarm {
    pub(crate) fn new(executor: &Executor) -> Self {
        Self { id: executor.id(), time: None, executor: executor.clone() }
    }

    /// Sets the alarm, or clears it.
    pub(crate) fn set(&mut self, time: Option<Instant>, waker: &Waker) {
        let mut alarms = self.executor.0.alarms.borrow_mut();
        if let Some(before) = mem::replace(&mut self.time, time) {
            alarms.remove(&(before, self.id));
        }
        if let Some(time) = time {
            alarms.insert((time, self.id), waker.clone());
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.set(None, Waker::noop());
    }
}
