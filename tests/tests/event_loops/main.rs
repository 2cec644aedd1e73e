//! The scenes of the testkit with several [loops].

mod failing;
mod loops;

use wirestate_testkit::event_loop;

macro_rules! check {
    ($($event_loop:ident)*) => {
        $(
            #[test]
            fn $event_loop() {
                event_loop::check::<loops::$event_loop::EventLoop>();
            }
        )*
    };
}

check! { edge_triggered level_triggered mio_loop own_executor without_wakers }

#[test]
fn the_examples_serve_their_clients() {
    loops::level_triggered::main().unwrap();
    loops::mio_loop::main().unwrap();
    loops::own_executor::main().unwrap();
    loops::without_wakers::main().unwrap();
}
