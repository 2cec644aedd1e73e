//! Listeners that are added and removed while the server accepts.

use wirestate_core::{
    echo,
    runtime::{Listener, Runtime},
    serve::Server,
    shutdown::ShutdownHandle,
};
use wirestate_testkit::sim::{Act, Host, Received, Task, act};

use crate::scene::{Scene, seconds};

fn say_hi(client: &Host, address: &'static str) -> Task<Option<Received>> {
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect(address).await.ok()?;
        let acts = vec![Act::Send("hi".into()), Act::Receive(2), Act::Finish, Act::ReceiveAll];
        Some(act(runtime, socket, acts).await)
    })
}

#[test]
fn a_listener_is_added_and_removed_while_the_server_accepts() {
    let scene = Scene::new(1);
    let client = scene.world.host("client");
    let listening = scene.listening.clone();
    let add = |address| {
        let listener = scene.server.listen(address).unwrap();
        listening.add(Server::new(scene.server.clone(), listener));
    };
    let hi = |address| {
        let received = scene.world.run_until(&say_hi(&client, address)).unwrap();
        received.map(|received| received.bytes)
    };
    assert_eq!((hi("server:7"), hi("server:8")), (Some(b"hi".to_vec()), None));
    scene.world.run_for(seconds(1)).unwrap();
    add("server:8");
    for address in ["server:7", "server:8", "server:7"] {
        assert_eq!(hi(address), Some(b"hi".to_vec()), "{address}");
    }
    let addresses = listening.addresses().unwrap();
    assert_eq!(addresses.len(), 2);
    scene.end();
    add("server:9");
    assert_eq!(listening.addresses().unwrap(), [], "the server accepts no more");
    for address in ["server:7", "server:8", "server:9"] {
        assert_eq!(hi(address), None, "{address}");
    }
}

#[test]
fn the_backlog_of_a_removed_listener_is_served_by_a_server_of_its_own() {
    let scene = Scene::new(2);
    let client = scene.world.host("client");
    let listening = scene.listening.clone();
    let listener = scene.server.listen("server:8").unwrap();
    let address = listener.local_address().unwrap();
    let waiting = say_hi(&client, "server:8");
    scene.world.run_for(seconds(1)).unwrap();
    listening.add(Server::new(scene.server.clone(), listener));
    let removed = listening.remove(std::slice::from_ref(&address));
    assert_eq!(removed.addresses().unwrap(), [address]);
    assert_eq!(listening.addresses().unwrap().len(), 1);
    let handle = scene.handle.clone().with_shutdown(ShutdownHandle::new());
    handle.soft_stop();
    let (removed, echo) = (removed.with_handle(&handle), echo::Server::default());
    let retired = scene.server.run(removed.serve(move |_, now| echo.machine(now)));
    assert_eq!(scene.world.run_until(&waiting).unwrap().unwrap().bytes, b"hi");
    scene.world.run_until(&retired).unwrap();
    let hi = |address| scene.world.run_until(&say_hi(&client, address)).unwrap();
    assert_eq!(hi("server:8").map(|received| received.bytes), None);
    assert_eq!(hi("server:7").map(|received| received.bytes), Some(b"hi".to_vec()));
    assert_eq!(scene.table.totals().accepted, 2);
    scene.end();
}
