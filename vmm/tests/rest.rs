//! The REST API over a real UNIX socket, against the VMM thread and a machine that only pretends.

mod pretended;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use api_client::{Client, ClientError, Method};
use pretended::{Control, PretendedFactory};
use vmm::api::http::HttpServer;
use vmm::host::api_socket::{ApiSocket, ApiSocketAddress};
use vmm::host::event_monitor::EventMonitor;
use vmm::vmm::{End, Vmm};
use vmm_sys_util::tempdir::TempDir;

struct Running {
    path: PathBuf,
    control: Control,
    thread: Option<thread::JoinHandle<End>>,
    server: Option<HttpServer>,
    handle: vmm::api::ApiHandle,
    _directory: TempDir,
}

impl Running {
    fn start() -> Running {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("api.sock");
        let control = Control::default();
        let factory = Box::new(PretendedFactory::new(control.clone()));
        let vmm = Vmm::new(factory, true, EventMonitor::none());
        let handle = vmm.handle();
        let socket = ApiSocket::open(&ApiSocketAddress::Path(path.clone())).unwrap();
        let server = HttpServer::start(socket, handle.clone()).unwrap();
        let thread = thread::spawn(move || vmm.run());
        Running {
            path,
            control,
            thread: Some(thread),
            server: Some(server),
            handle,
            _directory: directory,
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    fn get(&self, endpoint: &str) -> serde_json::Value {
        let body = self
            .client()
            .request(Method::Get, endpoint, None)
            .unwrap()
            .unwrap();
        serde_json::from_str(&body).unwrap()
    }

    fn put(&self, endpoint: &str, body: Option<&str>) -> Result<Option<String>, ClientError> {
        self.client().request(Method::Put, endpoint, body)
    }

    fn done(&self, endpoint: &str) {
        assert_eq!(self.put(endpoint, None).unwrap(), None, "{endpoint}");
    }

    fn create(&self) {
        let config = r#"{"payload":{"kernel":"/boot/vmlinux"},"unheard_of":1}"#;
        assert_eq!(self.put("vm.create", Some(config)).unwrap(), None);
    }

    fn state(&self) -> String {
        self.get("vm.info")["state"].as_str().unwrap().to_owned()
    }

    fn refused(&self, endpoint: &str, body: Option<&str>) -> (u16, Vec<String>) {
        match self.put(endpoint, body).unwrap_err() {
            ClientError::Refused { status, messages } => (status, messages),
            other => panic!("{endpoint}: {other}"),
        }
    }

    fn end(mut self) -> End {
        let end = self.thread.take().unwrap().join().unwrap();
        drop(self.server.take());
        assert!(!self.path.exists());
        end
    }
}

#[test]
fn ping_tells_who_is_there() {
    let running = Running::start();
    let ping = running.get("vmm.ping");
    assert_eq!(ping["pid"], std::process::id());
    assert_eq!(ping["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(ping["features"], serde_json::json!(["ft"]));
}

#[test]
fn a_life_from_create_to_delete() {
    let running = Running::start();
    assert_eq!(running.refused("vm.boot", None).0, 404);
    running.create();
    assert_eq!(running.state(), "Created");
    let info = running.get("vm.info");
    assert_eq!(info["config"]["memory"]["size"], 512 << 20);
    assert_eq!(info["memory_actual_size"], 512 << 20);
    assert_eq!(info["config"]["ft"]["id"].as_str().unwrap().len(), 32);
    let (status, messages) = running.refused("vm.pause", None);
    assert_eq!((status, messages.len()), (500, 2), "{messages:?}");
    running.done("vm.boot");
    assert_eq!(running.state(), "Running");
    assert_eq!(running.refused("vm.boot", None).0, 500);
    running.done("vm.pause");
    assert_eq!(running.state(), "Paused");
    let (status, messages) = running.refused("vm.pause", None);
    assert_eq!((status, messages.len()), (500, 3), "{messages:?}");
    running.done("vm.resume");
    running.done("vm.power-button");
    running.done("vm.reboot");
    assert_eq!(running.get("vm.counters")["__serial"]["write_bytes"], 7);
    running.done("vm.shutdown");
    assert_eq!(running.state(), "Created");
    running.done("vm.boot");
    assert_eq!(running.state(), "Running");
    running.done("vm.delete");
    running.done("vm.delete");
    assert_eq!(running.refused("vm.boot", None).0, 404);
    assert_eq!(running.put("vmm.shutdown", None).unwrap(), None);
    assert!(matches!(running.end(), End::Requested));
}

#[test]
fn requests_that_are_wrong_say_why() {
    let running = Running::start();
    let (status, messages) = running.refused("vm.create", Some("{"));
    assert_eq!(status, 400);
    assert!(messages.len() >= 3, "{messages:?}");
    let two = r#"{"payload":{"kernel":"/k"},"cpus":{"boot_vcpus":2,"max_vcpus":2}}"#;
    let (status, messages) = running.refused("vm.create", Some(two));
    assert_eq!(status, 400);
    assert!(
        messages.last().unwrap().contains("only 1 is supported"),
        "{messages:?}"
    );
    assert_eq!(running.refused("vm.create", None).0, 400);
    assert_eq!(running.refused("vm.info", None).0, 400);
    assert_eq!(running.refused("vm.nothing", None).0, 404);
    let (status, messages) = running.refused("vm.snapshot", None);
    assert_eq!(status, 500);
    assert!(
        messages.last().unwrap().contains("not supported yet"),
        "{messages:?}"
    );
    running.create();
    let again = r#"{"payload":{"kernel":"/k"}}"#;
    assert_eq!(running.refused("vm.create", Some(again)).0, 500);
}

#[test]
fn a_machine_that_cannot_be_built_leaves_the_vm_created() {
    let running = Running::start();
    running.create();
    running.control.fail_next_build();
    let (status, messages) = running.refused("vm.boot", None);
    assert_eq!(status, 500);
    assert!(
        messages.last().unwrap().contains("No such file"),
        "{messages:?}"
    );
    assert_eq!(running.state(), "Created");
    running.done("vm.boot");
}

#[test]
fn others_are_served_while_a_machine_is_slow() {
    let running = Running::start();
    running.create();
    running.done("vm.boot");
    running.control.hold_answers(true);
    let path = running.path.clone();
    let pausing = thread::spawn(move || {
        Client::connect(&path)
            .unwrap()
            .request(Method::Put, "vm.pause", None)
    });
    running.control.wait_for_held();
    assert_eq!(running.get("vm.ft-info")["role"], "none");
    assert_eq!(running.state(), "Running");
    running.control.hold_answers(false);
    assert_eq!(pausing.join().unwrap().unwrap(), None);
    assert_eq!(running.state(), "Paused");
}

#[test]
fn protection_is_asked_for_and_shown() {
    let running = Running::start();
    let enable = r#"{"peer":"tcp:127.0.0.1:7000","lease":"file:/shared/vm1"}"#;
    assert_eq!(running.refused("vm.ft-enable", Some(enable)).0, 404);
    running.create();
    let open = r#"{"peer":"tcp:10.0.0.2:7000","lease":"file:/shared/vm1"}"#;
    let (status, messages) = running.refused("vm.ft-enable", Some(open));
    assert_eq!(status, 400);
    assert!(
        messages.last().unwrap().contains("insecure=on"),
        "{messages:?}"
    );
    let lost = r#"{"peer":"tcp:127.0.0.1:7000"}"#;
    let (status, messages) = running.refused("vm.ft-enable", Some(lost));
    assert_eq!(status, 400);
    assert!(
        messages.last().unwrap().contains("lease=file:"),
        "{messages:?}"
    );
    assert_eq!(running.put("vm.ft-enable", Some(enable)).unwrap(), None);
    let info = running.get("vm.ft-info");
    assert_eq!(info["state"], "armed");
    assert_eq!(info["peer"], "tcp:127.0.0.1:7000");
    running.done("vm.boot");
    assert_eq!(running.control.commands(), ["ft-enable", "resume"]);
    assert_eq!(running.get("vm.ft-info")["role"], "primary");
    running.done("vm.ft-disable");
    assert_eq!(running.get("vm.ft-info")["role"], "none");
}

#[test]
fn a_backup_learns_what_it_is() {
    let running = Running::start();
    let listen = r#"{"listen":"tcp:127.0.0.1:7001"}"#;
    assert_eq!(running.put("vm.ft-receive", Some(listen)).unwrap(), None);
    assert_eq!(running.get("vm.ft-info")["state"], "receiving");
    assert_eq!(running.refused("vm.ft-receive", Some(listen)).0, 500);
    let error = running
        .client()
        .request(Method::Get, "vm.info", None)
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Refused { status: 500, .. }),
        "{error}"
    );
    running
        .control
        .configure(r#"{"payload":{"kernel":"/k"},"memory":{"size":1073741824}}"#);
    assert_eq!(running.get("vm.info")["memory_actual_size"], 1 << 30);
    running.done("vm.delete");
    assert_eq!(running.put("vm.ft-receive", Some(listen)).unwrap(), None);
}

#[test]
fn a_guest_that_powers_off_ends_the_process() {
    let running = Running::start();
    running.create();
    running.done("vm.boot");
    running.control.power_off();
    assert!(matches!(running.end(), End::PoweredOff));
}

#[test]
fn a_halted_side_stays_to_be_asked() {
    let running = Running::start();
    running.create();
    running.done("vm.boot");
    running.control.supersede();
    assert_eq!(running.get("vm.ft-info")["state"], "halted");
    assert_eq!(running.state(), "Shutdown");
    running.done("vm.delete");
}

#[test]
fn a_signal_ends_the_process_and_answers_who_waits() {
    let running = Running::start();
    running.create();
    running.done("vm.boot");
    running.control.hold_answers(true);
    let path = running.path.clone();
    let pausing = thread::spawn(move || {
        Client::connect(&path)
            .unwrap()
            .request(Method::Put, "vm.pause", None)
    });
    running.control.wait_for_held();
    running.handle.end_by_signal(15);
    assert!(matches!(running.end(), End::Signal(15)));
    let error = pausing.join().unwrap().unwrap_err();
    assert!(
        matches!(error, ClientError::Refused { status: 500, .. }),
        "{error}"
    );
}

#[test]
fn one_connection_carries_many_requests() {
    let running = Running::start();
    let mut client = running.client();
    for _ in 0..3 {
        client.request(Method::Get, "vmm.ping", None).unwrap();
        client.request(Method::Put, "vm.boot", None).unwrap_err();
        client.request(Method::Put, "vm.delete", None).unwrap();
    }
    // Pipelined, and in pieces.
    let mut stream = UnixStream::connect(&running.path).unwrap();
    let request = "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let body = "{}";
    let both = format!(
        "{request}PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for byte in both.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let first = answers.find("HTTP/1.1 200").unwrap();
    let second = answers.find("HTTP/1.1 400").unwrap();
    assert!(first < second, "{answers}");
}

#[test]
fn a_body_may_come_late_and_must_not_be_too_long() {
    let running = Running::start();
    let mut stream = UnixStream::connect(&running.path).unwrap();
    let body = format!(
        "{}{}",
        r#"{"payload":{"kernel":"/k"}}"#,
        " ".repeat(3 << 20)
    );
    let head = format!(
        "PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 12];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100");
    // Nothing comes for a while; then everything.
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap_err();
    stream.set_read_timeout(None).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("HTTP/1.1 204"), "{rest}");

    let long = " ".repeat((4 << 20) + 1);
    let (status, messages) = running.refused("vm.create", Some(&long));
    assert_eq!(status, 400, "{messages:?}");
    assert!(messages.last().unwrap().contains("4194304"), "{messages:?}");
}

#[test]
fn garbage_is_answered_and_harms_nobody() {
    let running = Running::start();
    for garbage in [
        "hello\r\n\r\n",
        "GET /api/v1/vmm.ping SPDY/3\r\n\r\n",
        "\0\0\0\r\n",
    ] {
        let mut stream = UnixStream::connect(&running.path).unwrap();
        stream.write_all(garbage.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{garbage:?}: {answer}");
    }
    // Clients that go away at any moment.
    for length in 0..40 {
        let mut stream = UnixStream::connect(&running.path).unwrap();
        let request = "PUT /api/v1/vm.delete HTTP/1.1\r\n\r\n";
        stream
            .write_all(&request.as_bytes()[..length.min(request.len())])
            .unwrap();
    }
    assert_eq!(running.get("vmm.ping")["pid"], std::process::id());
}

#[test]
fn more_clients_than_there_is_room_for_wait() {
    let running = Running::start();
    let idle: Vec<UnixStream> = (0..200)
        .map(|_| UnixStream::connect(&running.path).unwrap())
        .collect();
    let path = running.path.clone();
    let late = thread::spawn(move || {
        Client::connect(&path)
            .unwrap()
            .request(Method::Get, "vmm.ping", None)
    });
    drop(idle);
    late.join().unwrap().unwrap();
}

#[test]
fn devices_are_added_and_removed() {
    let running = Running::start();
    let disk = r#"{"path":"/a","id":"data"}"#;
    assert_eq!(running.refused("vm.add-disk", Some(disk)).0, 404);
    running.create();
    // Before the VM boots, that changes its configuration.
    assert_eq!(running.put("vm.add-disk", Some(disk)).unwrap(), None);
    assert_eq!(running.refused("vm.add-disk", Some(disk)).0, 409);
    assert_eq!(running.refused("vm.add-disk", Some("{}")).0, 400);
    let net = r#"{"tap":"t"}"#;
    assert_eq!(running.put("vm.add-net", Some(net)).unwrap(), None);
    let info = running.get("vm.info");
    assert_eq!(info["config"]["disks"][0]["id"], "data");
    let mac = info["config"]["net"][0]["mac"].as_str().unwrap().to_owned();
    assert_eq!(mac.len(), 17);
    let remove = |id: &str| format!(r#"{{"id":"{id}"}}"#);
    let (status, messages) = running.refused("vm.remove-device", Some(&remove("other")));
    assert_eq!(status, 404, "{messages:?}");
    let (status, messages) = running.refused("vm.remove-device", Some(&remove("__rng")));
    assert_eq!(status, 500, "{messages:?}");
    let removed = running.put("vm.remove-device", Some(&remove("data")));
    assert_eq!(removed.unwrap(), None);
    assert_eq!(
        running.get("vm.info")["config"]["disks"],
        serde_json::Value::Null
    );
    running.done("vm.boot");
    let info = running.get("vm.info");
    let slots = serde_json::json!({ "__console": 1, "_net0": 3, "__rng": 4 });
    assert_eq!(info["config"]["pci_slots"], slots);
    // A running machine decides itself, and says where the device is.
    let answer = running.put("vm.add-disk", Some(disk)).unwrap().unwrap();
    assert_eq!(answer, r#"{"id":"data","bdf":"0000:00:05.0"}"#);
    let removed = running.put("vm.remove-device", Some(&remove("data")));
    assert_eq!(removed.unwrap(), None);
    let commands = running.control.commands();
    assert_eq!(commands[1..], ["add-disk", "remove-device"]);
}

/// Descriptors come beside the request; numbers in its body mean nothing.
#[test]
fn a_card_has_the_descriptors_that_came_with_it() {
    let running = Running::start();
    running.create();
    let null = std::fs::File::open("/dev/null").unwrap();
    let body = r#"{"fds":[0],"id":"card"}"#;
    let put = |endpoint, descriptors: &[i32]| {
        let mut client = running.client();
        client.request_with(Method::Put, endpoint, Some(body), descriptors)
    };
    assert_eq!(put("vm.add-net", &[null.as_raw_fd()]).unwrap(), None);
    let nets = running.get("vm.info")["config"]["net"].clone();
    let number = nets[0]["fds"][0].as_i64().unwrap();
    assert!(
        number > 2 && number != i64::from(null.as_raw_fd()),
        "{nets}"
    );
    assert_eq!(nets[0]["fds"].as_array().unwrap().len(), 1);
    let open = PathBuf::from(format!("/proc/self/fd/{number}"));
    assert_eq!(std::fs::read_link(&open).unwrap(), Path::new("/dev/null"));
    // Several are more than a card can use, and are closed again.
    let two = [null.as_raw_fd(), null.as_raw_fd()];
    put("vm.add-net", &two).unwrap_err();
    let remove = r#"{"id":"card"}"#;
    assert_eq!(running.put("vm.remove-device", Some(remove)).unwrap(), None);
    let still = std::fs::read_link(&open).ok();
    assert_ne!(still.as_deref(), Some(Path::new("/dev/null")));
    // Without one, the number is nobody's.
    assert_eq!(put("vm.add-net", &[]).unwrap(), None);
    let nets = running.get("vm.info")["config"]["net"].clone();
    assert!(nets[0]["fds"].is_null(), "{nets}");
    running.done("vmm.shutdown");
    running.end();
}

#[test]
fn there_is_one_socket_device() {
    let running = Running::start();
    running.create();
    let vsock = r#"{"cid":3,"socket":"/v"}"#;
    assert_eq!(running.put("vm.add-vsock", Some(vsock)).unwrap(), None);
    assert_eq!(running.get("vm.info")["config"]["vsock"]["cid"], 3);
    let (status, messages) = running.refused("vm.add-vsock", Some(vsock));
    assert_eq!(status, 400, "{messages:?}");
    assert!(messages.join(" ").contains("only one"), "{messages:?}");
    running.done("vmm.shutdown");
    running.end();
}

/// Clients that connect and say nothing, or half of something, keep nobody out.
#[test]
fn silent_clients_make_room() {
    let running = Running::start();
    let mut silent: Vec<UnixStream> = Vec::new();
    for index in 0..300 {
        let mut stream = UnixStream::connect(&running.path).unwrap();
        if index % 2 == 0 {
            stream
                .write_all(b"PUT /api/v1/vm.create HTTP/1.1\r\n")
                .unwrap();
        }
        silent.push(stream);
    }
    assert_eq!(running.get("vmm.ping")["pid"], std::process::id());
    // The first of them were sent away, the last one can go on.
    assert_eq!(silent[0].read(&mut [0]).unwrap_or(0), 0);
    let last = silent.last_mut().unwrap();
    last.write_all(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n")
        .unwrap();
    let mut answer = [0; 12];
    last.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    running.done("vmm.shutdown");
    running.end();
}

/// A request whose headers go on and on is refused before they fill the memory.
#[test]
fn endless_headers_are_refused() {
    let running = Running::start();
    let mut stream = UnixStream::connect(&running.path).unwrap();
    stream
        .write_all(b"GET /api/v1/vmm.ping HTTP/1.1\r\n")
        .unwrap();
    for index in 0..12_000 {
        let header = format!("X-{index}: {}\r\n", "y".repeat(900));
        stream.write_all(header.as_bytes()).unwrap();
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    assert_eq!(running.get("vmm.ping")["pid"], std::process::id());
    running.done("vmm.shutdown");
    running.end();
}
