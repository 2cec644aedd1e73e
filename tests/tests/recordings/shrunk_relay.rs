use wirestate_core::{
    ConnectionError, Direction, Instant, proxy,
    proxy::Side::{Client, Upstream},
};
use wirestate_testkit::script::{self, Ending, Op};

#[test]
fn a_session_ends_with_upstream_lost() {
    let mut relay = proxy::RelayFactory::default().relay(Instant::EPOCH);
    relay.handle_connected(Instant::EPOCH, false);
    let ops = [
        (Client, Op::Eof),
        (Upstream, Op::Finished),
        (Upstream, Op::Error(Direction::Read, ConnectionError::Reset)),
        (Client, Op::Finished),
    ];
    let [client, upstream] = script::play_relay(&mut relay, &ops);
    assert_eq!(client.label, Some("upstream_lost"));
    assert_eq!((client.ending, upstream.ending), (Some(Ending::Rst), Some(Ending::Fin)));
}
