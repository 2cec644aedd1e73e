//! Scenes that a program fails, and what the test says.

use wirestate_testkit::sim::Act::{Finish, ReceiveAll};

use crate::{
    check::check,
    known::{Difference, Instead},
    program::Program,
    scene::{End, Scene, peer, send},
    simulated,
};

/// Plays a scene with the simulator: a FIN after `hello`, which comes back.
fn play(bytes: &str, end: End, known: &[Difference]) {
    let scene = Scene::of("a scene", [peer([send("hello"), Finish, ReceiveAll], bytes, end)]);
    check(&[scene], &[Program::simulated(simulated::echo)], known);
}

#[test]
#[should_panic(
    expected = "simulator, \"a scene\": what the client has received differs from what \
                           the scene expects:\n  5 bytes, FIN; from byte 3: b\"lo\"\nexpected:\n  \
                           5 bytes, FIN; from byte 3: b\"p!\""
)]
fn other_bytes_are_a_failure() {
    play("help!", End::Fin, &[]);
}

#[test]
#[should_panic(expected = "expected:\n  5 bytes, RST")]
fn a_fin_instead_of_an_rst_is_a_failure() {
    play("hello", End::Rst, &[]);
}

const NO_BYTE: Difference = Difference {
    programs: &["simulator"],
    receives: &[("a scene", "client", Instead::OnlyFin)],
    reason: "",
};

#[test]
#[should_panic(expected = "is as the scene expects; remove the known difference")]
fn a_known_difference_that_does_not_occur_is_a_failure() {
    play("hello", End::Fin, &[NO_BYTE]);
}

#[test]
#[should_panic(expected = "differs from the known difference")]
fn another_difference_than_the_known_one_is_a_failure() {
    play("help!", End::Fin, &[NO_BYTE]);
}

#[test]
#[should_panic(expected = "no scene \"another scene\" with a peer \"client\"")]
fn a_known_difference_of_no_scene_is_a_failure() {
    let receives = &[("another scene", "client", Instead::Fin)];
    play("hello", End::Fin, &[Difference { receives, ..NO_BYTE }]);
}
