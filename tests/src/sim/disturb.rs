//! What can happen to a host, its clock and its network.

use std::{fmt::Write as _, mem::replace, num::NonZeroU64, time::Duration};

use wirestate_core::{Direction, Instant};

use super::{Faults, Host, Latency, TraceEvent, Value, clock::ClockState, network::Event};

impl Host {
    /// Replaces the plan of faults for the calls on this host's sockets.
    pub fn set_faults(&self, faults: Faults) {
        self.world.network(|network| {
            let plan = faults.any().then(|| faults.to_string());
            let value = plan.as_deref().map(Value::text);
            let before = replace(&mut network.hosts[self.index].faults, faults);
            network.trace_lasting(self.index, (before.any(), plan.is_some()), "faults", value);
        });
    }

    /// Limits the number of open sockets, without listeners. Default: no limit.
    ///
    /// At the limit, accepting fails with `EMFILE`, and the backlog stays as it is.
    pub fn set_max_sockets(&self, max: usize) {
        self.world.network(|network| network.hosts[self.index].max_sockets = max);
    }

    /// Stops the host's processes for `duration`, as `SIGSTOP` or a suspended VM does. If it is
    /// stopped already, the later end counts.
    ///
    /// No task runs and no alarm goes off, but the host's clock and kernel go on. Afterwards the
    /// tasks first see the alarms, then the readiness of their sockets.
    pub fn stop_for(&self, duration: Duration) {
        self.world.network(|network| {
            let until = network.now + duration;
            let end = network.stopped.entry(self.index).or_insert(until);
            *end = until.max(*end);
            let value = Some(Value::Time(duration));
            network.trace_host(self.index, TraceEvent::Fault("stopped", value));
            network.reschedule_alarms(self.index);
            network.after(duration, Event::Resume(self.index));
        });
    }

    /// Disconnects the host from the network (`true`), or connects it again. It still reaches
    /// itself.
    ///
    /// All segments to and from the host are lost, as with [`set_blocked`](Self::set_blocked).
    pub fn set_unplugged(&self, unplugged: bool) {
        self.world.network(|network| {
            let before = replace(&mut network.hosts[self.index].unplugged, unplugged);
            network.trace_lasting(self.index, (before, unplugged), "unplugged", None);
            if !unplugged {
                network.probe_all(self.index);
            }
        });
    }

    /// Loses all segments from this host to `to` (`true`), or none. Segments from `to` still
    /// arrive: for a partition in both directions, block both.
    ///
    /// TCP repeats lost segments after 200 ms, then at intervals that double up to 120 s, so that
    /// they arrive at most that long after the path is open again. After 924 s the sender gives the
    /// connection up (`ETIMEDOUT`). An RST is not repeated: the other end learns a minute after the
    /// path is open that the connection is gone (keepalive). A host repeats a SYN each second, six
    /// times.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wirestate_core::runtime::{Listener as _, Runtime as _};
    /// use wirestate_testkit::sim::World;
    ///
    /// let world = World::new(1);
    /// let (server, client) = (world.host("server"), world.host("client"));
    /// let mut listener = server.listen("server:7")?;
    /// let received = server.run(async move {
    ///     let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
    ///     let (mut socket, _) = accepted.unwrap();
    ///     socket.receive(&mut [0; 64]).await
    /// });
    /// let runtime = client.clone();
    /// client.run(async move {
    ///     let mut socket = runtime.connect("server:7").await.unwrap();
    ///     runtime.sleep(Duration::from_secs(10)).await;
    ///     socket.send(b"hello").await.unwrap();
    ///     runtime.sleep(Duration::from_secs(60)).await;
    /// });
    ///
    /// world.run_for(Duration::from_secs(5))?;
    /// client.set_blocked(&server, true);
    /// world.run_for(Duration::from_secs(10))?;
    /// assert_eq!(received.take(), None);
    /// client.set_blocked(&server, false);
    /// world.run_for(Duration::from_secs(10))?;
    /// assert_eq!(received.take(), Some(Ok(5)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_blocked(&self, to: &Self, blocked: bool) {
        self.world.network(|network| {
            let value = Some(Value::text(&format!("to {}", network.hosts[to.index].name)));
            let link = network.links.entry((self.index, to.index)).or_default();
            let before = replace(&mut link.blocked, blocked);
            network.trace_lasting(self.index, (before, blocked), "blocked", value);
            if !blocked {
                network.probe_all(self.index);
            }
        });
    }

    /// Replaces the latency of segments from this host to `to`. `None`: the latency of the world's
    /// [settings](super::Settings::latency), the default.
    pub fn set_latency(&self, to: &Self, latency: Option<Latency>) {
        self.world.network(|network| {
            let mut value = format!("to {}", network.hosts[to.index].name);
            if let Some(latency) = &latency {
                let _ = write!(value, ", {latency:?}");
            }
            let value = Some(Value::text(&value));
            let now = latency.is_some();
            let link = network.links.entry((self.index, to.index)).or_default();
            let before = replace(&mut link.latency, latency).is_some();
            network.trace_lasting(self.index, (before, now), "latency", value);
        });
    }

    /// Limits the bytes a second that the host receives ([`Direction::Read`]) or sends
    /// ([`Direction::Write`]), of all its connections to other hosts together. Default: no limit.
    ///
    /// It applies to what is sent from now on.
    pub fn set_bandwidth(&self, direction: Direction, bytes_per_second: Option<NonZeroU64>) {
        self.world.network(|network| {
            let host = &mut network.hosts[self.index];
            let (bandwidth, name) = match direction {
                Direction::Read => (&mut host.download, "download"),
                Direction::Write => (&mut host.upload, "upload"),
            };
            let before = replace(&mut bandwidth.rate, bytes_per_second).is_some();
            let value = bytes_per_second.map(|rate| Value::Number(rate.get()));
            network.trace_lasting(self.index, (before, value.is_some()), name, value);
        });
    }

    /// Sets the host's clock ahead.
    pub fn set_clock_ahead(&self, by: Duration) {
        let fault = TraceEvent::Fault("clock_ahead", Some(Value::Time(by)));
        self.change_clock(fault, |clock, now| clock.set_ahead(now, by));
    }

    /// Sets the host's clock back, as faulty monotonic clocks do.
    pub fn set_clock_back(&self, by: Duration) {
        let fault = TraceEvent::Fault("clock_back", Some(Value::Time(by)));
        self.change_clock(fault, |clock, now| clock.set_back(now, by));
    }

    /// Makes the host's clock too fast by this many parts per million, or too slow if negative: its
    /// alarms go off early, or late. Default: 0. Quartz clocks drift by up to 100.
    ///
    /// # Panics
    /// If `parts_per_million` is −1,000,000 or less: such a clock would not advance.
    #[track_caller]
    pub fn set_clock_drift(&self, parts_per_million: i32) {
        assert!(
            parts_per_million > -1_000_000,
            "a drift of {parts_per_million} ppm is not above -1000000"
        );
        self.world.network(|network| {
            let (now, lasts) = (network.now, parts_per_million != 0);
            let value = lasts.then(|| Value::text(&format!("{parts_per_million} ppm")));
            let before = network.hosts[self.index].clock.set_drift(now, parts_per_million);
            network.trace_lasting(self.index, (before, lasts), "clock_drift", value);
            network.reschedule_alarms(self.index);
        });
    }

    /// Stops the host's clock for `duration`, and with it the alarms. It then continues from the
    /// same time. If it is stopped already, the later end counts.
    pub fn freeze_clock(&self, duration: Duration) {
        let fault = TraceEvent::Fault("clock_frozen", Some(Value::Time(duration)));
        self.change_clock(fault, |clock, now| clock.freeze(now, now + duration));
        self.world.network(|network| network.after(duration, Event::Thaw(self.index)));
    }

    fn change_clock(&self, event: TraceEvent, change: impl FnOnce(&mut ClockState, Instant)) {
        self.world.network(|network| {
            network.trace_host(self.index, event);
            change(&mut network.hosts[self.index].clock, network.now);
            network.reschedule_alarms(self.index);
        });
    }
}
