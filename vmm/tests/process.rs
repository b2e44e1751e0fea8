//! The process from start to end, with a machine that only pretends. In one test, because signals
//! are the whole process's.

mod pretended;

use std::path::PathBuf;
use std::thread;

use api_client::{Client, Method};
use pretended::{Control, PretendedFactory};
use vmm::config::VmConfig;
use vmm::host::api_socket::ApiSocketAddress;
use vmm::host::event_monitor::EventMonitor;
use vmm::process::{self, ProcessError, ProcessOptions};
use vmm_sys_util::tempdir::TempDir;

struct Setting {
    directory: TempDir,
    control: Control,
}

impl Setting {
    fn new() -> Self {
        Setting {
            directory: TempDir::new().unwrap(),
            control: Control::default(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.as_path().join("api.sock")
    }

    fn events(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.as_path().join("events")).unwrap();
        let events = text.split_terminator("\n\n");
        let events = events.map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        events
            .map(|event| event["event"].as_str().unwrap().to_owned())
            .collect()
    }

    fn run(&self, has_api: bool, has_vm: bool) -> Result<(), ProcessError> {
        let config = VmConfig::from_json(br#"{"payload":{"kernel":"/k"}}"#).unwrap();
        let options = ProcessOptions {
            api_socket: has_api.then(|| ApiSocketAddress::Path(self.socket())),
            vm: has_vm.then(|| Box::new(config)),
            monitor: EventMonitor::to_path(&self.directory.as_path().join("events")).unwrap(),
        };
        process::run(
            Box::new(PretendedFactory::new(self.control.clone())),
            options,
        )
    }

    /// Does `act` once the guest runs.
    fn run_and(&self, has_api: bool, act: impl FnOnce(&Self) + Send) -> Result<(), ProcessError> {
        thread::scope(|scope| {
            scope.spawn(|| {
                self.control.wait_for_command("resume");
                act(self);
            });
            self.run(has_api, true)
        })
    }
}

#[test]
fn a_process_ends_as_it_should() {
    let setting = Setting::new();
    assert!(matches!(
        setting.run(false, false),
        Err(ProcessError::NothingToDo)
    ));

    // The guest powers off.
    let setting = Setting::new();
    setting
        .run_and(false, |setting| setting.control.power_off())
        .unwrap();
    let events = setting.events();
    assert_eq!(events.first().unwrap(), "starting");
    assert!(events.contains(&"booting".to_owned()), "{events:?}");
    assert!(
        events.ends_with(&["shutdown".to_owned(), "shutdown".to_owned()]),
        "{events:?}"
    );

    // Somebody asks over the API, and gets an answer.
    let setting = Setting::new();
    setting
        .run_and(true, |setting| {
            let mut client = Client::connect(&setting.socket()).unwrap();
            let answer = client.request(Method::Put, "vmm.shutdown", None).unwrap();
            assert_eq!(answer, None);
        })
        .unwrap();
    assert!(!setting.socket().exists());

    // The other side takes over, and nobody could ask about it.
    let setting = Setting::new();
    let result = setting.run_and(false, |setting| setting.control.supersede());
    assert!(matches!(result, Err(ProcessError::Superseded)));

    // It does not boot.
    let setting = Setting::new();
    setting.control.fail_next_build();
    assert!(matches!(
        setting.run(true, true),
        Err(ProcessError::Boot(_))
    ));

    // A signal.
    let setting = Setting::new();
    setting
        .run_and(false, |_| {
            signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
        })
        .unwrap();
    assert!(
        !setting.control.commands().contains(&"shutdown"),
        "a signal is no power-off"
    );
}
