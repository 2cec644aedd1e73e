//! What a failed run shows: the names of tasks, and the last events of their connections.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    Entry, Record, Side,
    connection::{Connection, End},
    executor::TaskInfo,
    network::Network,
};

impl Network {
    /// The name of a task: its host and number, and its own name or the connection that it uses.
    pub(super) fn task_name(&self, task: &TaskInfo) -> String {
        let name = task.name.as_deref().map(str::to_owned).or_else(|| {
            let used = self.ends().filter(|end| end.task == Some(task.id));
            // Of a proxied connection, the side of the client.
            let Record { client, dial, side, .. } = used
                .map(|end| &end.record)
                .min_by_key(|end| (end.closed, end.side == Side::Client))?;
            let from = if *side == Side::Server { "from " } else { "" };
            Some(format!("connection {from}{client}/{dial}"))
        });
        let (host, id) = (&self.hosts[task.host].name, task.id);
        name.map_or_else(|| format!("{host}#{id}"), |name| format!("{host}#{id} ({name})"))
    }

    /// The last events of hosts, and of the connections that `tasks` use, or of all connections if
    /// they use none.
    pub(super) fn last_events(&self, tasks: &[TaskInfo]) -> Vec<Entry> {
        let tasks: BTreeSet<_> = tasks.iter().map(|task| Some(task.id)).collect();
        let used: BTreeSet<_> = self
            .ends()
            .filter(|end| tasks.contains(&end.task))
            .map(|end| (&*end.record.client, end.record.dial))
            .collect();
        let is_shown = |entry: &&Entry| {
            let connection = entry.place.connection();
            used.is_empty() || connection.is_none_or(|connection| used.contains(&connection))
        };
        let mut last: Vec<_> =
            self.trace.entries().iter().rev().filter(is_shown).take(LAST_EVENTS).cloned().collect();
        last.reverse();
        last
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        self.connections.iter().flat_map(Connection::ends)
    }
}

/// `events` as text, one a line, to follow a message.
pub(super) fn lines(events: &[Entry]) -> String {
    let mut text = String::new();
    for entry in events {
        let title = if text.is_empty() { "\nthe last events:" } else { "" };
        let _ = write!(text, "{title}\n  {entry}");
    }
    text
}

/// How many events a failure shows.
const LAST_EVENTS: usize = 20;
