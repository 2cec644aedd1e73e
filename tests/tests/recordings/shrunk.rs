use wirestate_core::{ConnectionError, Direction, Instant, echo};
use wirestate_testkit::script::{self, Op};

#[test]
fn a_session_ends_with_reset() {
    let mut machine = echo::Server::new(echo::Config::default()).unwrap().machine(Instant::EPOCH);
    let ops = [Op::Error(Direction::Read, ConnectionError::Reset)];
    let transcript = script::play(&mut machine, &ops);
    assert_eq!((transcript.label, transcript.ending), (Some("reset"), None));
}
