//! Requests and replies.

use wirestate_core::{
    message::{self, service},
    runtime::Runtime as _,
    serve,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Disturbance, Host, Task},
};

use super::{Starts, connect, disturb, echo::misbehave, seconds, world};
use crate::message_scene::{
    Answers, MAX_QUEUED, SIZES, ask_on, graceful_ends_are_complete, itself, output_is_requests,
    patient_server, requests, small,
};

/// Starts a server that answers each request with the request itself.
fn serve(host: &Host, starts: &Starts) {
    let starts = starts.clone();
    host.run_on_start(move |host| {
        let listener = host.listen("server:7").unwrap();
        let config = patient_server(small(512));
        let messages = message::Server::new(config, service::function(itself)).unwrap();
        let server = serve::Server::new(host.clone(), listener).with_handle(&starts.handle());
        let machine = move |_: &_, now| Checked::new(messages.machine(now), MAX_QUEUED);
        host.run_named("message server", server.serve(machine));
    });
}

/// Asks the server `count` times, three seconds apart.
fn ask(client: &Host, count: u32) -> Task<Vec<Answers>> {
    let runtime = client.clone();
    client.run(async move {
        let mut answers = Vec::new();
        for _ in 0..count {
            let socket = connect(&runtime, "server:7").await;
            answers.push(ask_on(&runtime, socket, requests(&SIZES[..8])).await);
            runtime.sleep(seconds(3)).await;
        }
        answers
    })
}

#[test]
fn each_request_has_its_reply_under_disturbances_that_break_no_connection() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed + 2), Starts::default());
        let (server, clients) = (world.host("server"), [world.host("a"), world.host("b")]);
        world.watch(output_is_requests());
        serve(&server, &starts);
        let asking = clients.each_ref().map(|client| ask(client, 5));
        let [a, b] = &clients;
        disturb(&world, &[&server, a, b], &Disturbance::HARMLESS);
        world.finish_within(seconds(120), &[a, b]).unwrap();
        for asking in asking {
            let answers = asking.take().unwrap();
            assert!(answers.iter().all(Answers::are_complete), "{answers:?}");
        }
        graceful_ends_are_complete(&world);
        starts.end(&world);
    });
}

#[test]
fn under_all_disturbances_no_reply_is_wrong_and_afterwards_clients_are_served() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed + 2), Starts::default());
        let (server, client) = (world.host("server"), world.host("client"));
        let late = world.host("late");
        world.watch(output_is_requests());
        serve(&server, &starts);
        let asking = [ask(&client, 4), ask(&client, 4)];
        misbehave(&world, seed, "server:7");
        disturb(&world, &[&server, &client], &Disturbance::ALL);

        let late_asking = ask(&late, 1);
        world.finish_within(seconds(30), &[&late]).unwrap();
        assert!(late_asking.take().unwrap()[0].are_complete());
        world.finish_within(seconds(1000), &[&client]).unwrap();
        for asking in asking {
            assert!(asking.take().unwrap().iter().all(Answers::are_in_order));
        }
        world.run_for(seconds(3600)).unwrap();
        starts.end(&world);
    });
}
