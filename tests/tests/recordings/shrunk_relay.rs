use wirestate_core::{ConnectionError, Direction, Instant, proxy};
use wirestate_testkit::script::{
    self, Ending, Op,
    RelayOp::{Client, Connected, Upstream},
};

#[test]
fn a_session_ends_with_upstream_lost() {
    let mut relay = proxy::RelayFactory::default().relay(Instant::EPOCH);
    let ops = [
        Connected { has_another: false },
        Client(Op::Eof),
        Upstream(Op::Finished),
        Upstream(Op::Error(Direction::Read, ConnectionError::Reset)),
        Client(Op::Finished),
    ];
    let [client, upstream] = script::play_relay(&mut relay, &ops);
    assert_eq!(client.label, Some("upstream_lost"));
    assert_eq!((client.ending, upstream.ending), (Some(Ending::Rst), Some(Ending::Fin)));
}
