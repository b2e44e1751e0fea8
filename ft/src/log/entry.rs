//! One entry of the log.
//!
//! Does: name what can be logged, and code each body. Does not: code sequence numbers and
//! positions, which stand in a batch relative to their predecessors.
//!
//! Invariant: decoding what was encoded gives the same entry, and each entry has one encoding.
//! Control entries say whether the end of a log is the end of the VM, so that no failover follows a
//! guest's power-off (paper §3.1).

use hypervisor::Position;
use machine::{DeviceSpec, Event, Input, Outcome, Output, StreamEvent, Submission};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::channel::MAX_DEVICE_CONFIG;
use crate::codec::{DecodeError, Decoder, put_bytes, put_number};

/// The longest encoded body of an entry.
pub const MAX_ENTRY_BYTES: usize = 128 << 10;
/// The most frames in one entry.
pub const MAX_FRAMES: usize = 1024;
/// The longest description of a device.
const MAX_DEVICE_BYTES: usize = 4 << 10;
/// The most components in a digest.
pub const MAX_COMPONENTS: usize = 128;
/// The longest name of a component.
pub const MAX_COMPONENT_NAME: usize = 64;

/// One entry: a body at a position, with its place in the order of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Dense, from 0 at the VM's creation; never restarts while the VM lives.
    pub seq: u64,
    /// The boundary it belongs to.
    pub position: Position,
    /// What happened.
    pub body: Body,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// To be applied to the machine at this boundary.
    Input(Input),
    /// The primary reached this boundary, and all before it is in the log.
    Watermark,
    /// The machine made an output in the step that ends here.
    Output(OutputMark),
    /// The machine's digest is taken at this boundary.
    DigestHere {
        /// Names this digest; its values follow under the same id.
        id: u64,
    },
    /// What the primary computed for the digest of that id.
    DigestValue {
        /// The id given by `DigestHere`.
        id: u64,
        /// One hash for each component of the machine.
        components: Vec<ComponentDigest>,
    },
    /// Something was done to the VM as a whole.
    Control(Control),
}

/// What identifies an output; its content is made again by replaying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputMark {
    /// Console bytes.
    Console {
        /// Count of console bytes since the VM's creation, these included.
        through: u64,
        /// `hash_of` the bytes since the previous such entry.
        hash: u64,
    },
    /// A virtio device asked something.
    Device {
        /// The device's number on the PCI bus.
        device: u8,
        /// The request's id.
        id: u64,
        /// Hash of what is asked.
        hash: u64,
    },
}

impl OutputMark {
    /// The mark of a device's request.
    pub fn of_submission(submission: &Submission) -> OutputMark {
        let mut hasher = Xxh3Default::new();
        let mut feed = |bytes: &[u8]| hasher.update(bytes);
        submission.request.identify(&mut feed);
        OutputMark::Device {
            device: submission.device,
            id: submission.id,
            hash: hasher.digest(),
        }
    }
}

impl OutputMark {
    /// The mark of an output, and the position it was made at.
    pub fn of(output: &Output) -> (Position, OutputMark) {
        match output {
            Output::Console {
                position,
                through,
                bytes,
            } => (
                *position,
                OutputMark::Console {
                    through: *through,
                    hash: hash_of(bytes),
                },
            ),
            Output::Device {
                position,
                submission,
            } => (*position, OutputMark::of_submission(submission)),
        }
    }
}

/// The hash that identifies the content of an output: XXH3, 64 bits, seed 0.
pub fn hash_of(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The hash of one component of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentDigest {
    /// The component's name, as in the machine's saved state.
    pub name: String,
    /// The hash of its state.
    pub value: u64,
}

/// What was done to the VM as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The primary stopped running steps.
    Pause,
    /// The primary runs on.
    Resume,
    /// The VM ended here, by the guest's own doing or an operator's. Nobody goes live.
    PowerOff,
    /// The log ends here, and the VM does not.
    EndOfLog(EndReason),
}

/// Why a log ends while its VM goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Recording was switched off.
    RecordingStopped,
    /// Protection was switched off.
    ProtectionDisabled,
    /// The recording process is shutting down.
    Shutdown,
}

const WATERMARK: u8 = 0x00;
const ANCHOR: u8 = 0x01;
const SERIAL_INPUT: u8 = 0x02;
const CONSOLE_EMITTED: u8 = 0x03;
const POWER_BUTTON: u8 = 0x04;
const RESET: u8 = 0x05;
const DEVICE_DATA: u8 = 0x06;
const DEVICE_COMPLETED: u8 = 0x07;
const DEVICE_FRAMES: u8 = 0x08;
const DEVICE_ANNOUNCE: u8 = 0x09;
const DEVICE_TYPED: u8 = 0x0A;
const DEVICE_EMITTED: u8 = 0x0B;
const DEVICE_SIZE: u8 = 0x0C;
const DEVICE_BALLOON: u8 = 0x0D;
const DEVICE_STREAM: u8 = 0x0E;
const PLUG: u8 = 0x0F;
const UNPLUG: u8 = 0x10;
const NMI: u8 = 0x11;
const CONSOLE_OUTPUT: u8 = 0x40;
const DEVICE_OUTPUT: u8 = 0x41;
const DIGEST_HERE: u8 = 0x60;
const DIGEST_VALUE: u8 = 0x61;
const PAUSE: u8 = 0x70;
const RESUME: u8 = 0x71;
const POWER_OFF: u8 = 0x72;
const END_OF_LOG: u8 = 0x73;

impl Body {
    /// The tag that stands before the position.
    pub(crate) fn tag(&self) -> u8 {
        match self {
            Body::Watermark => WATERMARK,
            Body::Input(Input::Anchor { .. }) => ANCHOR,
            Body::Input(Input::SerialInput(_)) => SERIAL_INPUT,
            Body::Input(Input::ConsoleEmitted { .. }) => CONSOLE_EMITTED,
            Body::Input(Input::PowerButton) => POWER_BUTTON,
            Body::Input(Input::Reset) => RESET,
            Body::Input(Input::Nmi) => NMI,
            Body::Input(Input::Plug { .. }) => PLUG,
            Body::Input(Input::Unplug { .. }) => UNPLUG,
            Body::Input(Input::Device { event, .. }) => match event {
                Event::Data { .. } => DEVICE_DATA,
                Event::Completed { .. } => DEVICE_COMPLETED,
                Event::Frames(_) => DEVICE_FRAMES,
                Event::Announce => DEVICE_ANNOUNCE,
                Event::Typed(_) => DEVICE_TYPED,
                Event::Emitted { .. } => DEVICE_EMITTED,
                Event::Size { .. } => DEVICE_SIZE,
                Event::Balloon { .. } => DEVICE_BALLOON,
                Event::Stream(_) => DEVICE_STREAM,
            },
            Body::Output(OutputMark::Console { .. }) => CONSOLE_OUTPUT,
            Body::Output(OutputMark::Device { .. }) => DEVICE_OUTPUT,
            Body::DigestHere { .. } => DIGEST_HERE,
            Body::DigestValue { .. } => DIGEST_VALUE,
            Body::Control(Control::Pause) => PAUSE,
            Body::Control(Control::Resume) => RESUME,
            Body::Control(Control::PowerOff) => POWER_OFF,
            Body::Control(Control::EndOfLog(_)) => END_OF_LOG,
        }
    }

    /// Everything after the tag and the position.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Body::Watermark
            | Body::Input(Input::PowerButton | Input::Reset | Input::Nmi)
            | Body::Control(Control::Pause | Control::Resume | Control::PowerOff) => {}
            Body::Input(Input::Anchor { virtual_time, rate }) => {
                put_number(out, *virtual_time);
                put_number(out, *rate);
            }
            Body::Input(Input::SerialInput(bytes)) => put_bytes(out, bytes),
            Body::Input(Input::ConsoleEmitted { through }) => put_number(out, *through),
            Body::Output(OutputMark::Console { through, hash }) => {
                put_number(out, *through);
                out.extend_from_slice(&hash.to_le_bytes());
            }
            Body::Input(Input::Plug {
                device,
                spec,
                config,
            }) => {
                out.push(*device);
                let spec = postcard::to_stdvec(spec).expect("plain data encodes");
                put_bytes(out, &spec);
                put_bytes(out, config);
            }
            Body::Input(Input::Unplug { device }) => out.push(*device),
            Body::Input(Input::Device { device, event }) => {
                out.push(*device);
                encode_event(event, out);
            }
            Body::Output(OutputMark::Device { device, id, hash }) => {
                out.push(*device);
                put_number(out, *id);
                out.extend_from_slice(&hash.to_le_bytes());
            }
            Body::DigestHere { id } => put_number(out, *id),
            Body::DigestValue { id, components } => {
                put_number(out, *id);
                encode_components(components, out);
            }
            Body::Control(Control::EndOfLog(reason)) => out.push(match reason {
                EndReason::RecordingStopped => 0,
                EndReason::ProtectionDisabled => 1,
                EndReason::Shutdown => 2,
            }),
        }
    }

    pub(crate) fn decode(tag: u8, from: &mut Decoder<'_>) -> Result<Body, DecodeError> {
        Ok(match tag {
            WATERMARK => Body::Watermark,
            ANCHOR => Body::Input(Input::Anchor {
                virtual_time: from.number("virtual time")?,
                rate: from.number("rate")?,
            }),
            SERIAL_INPUT => Body::Input(Input::SerialInput(
                from.bytes(MAX_ENTRY_BYTES, "serial input")?.to_vec(),
            )),
            CONSOLE_EMITTED => Body::Input(Input::ConsoleEmitted {
                through: from.number("emitted count")?,
            }),
            POWER_BUTTON => Body::Input(Input::PowerButton),
            RESET => Body::Input(Input::Reset),
            DEVICE_DATA..=DEVICE_STREAM => Body::Input(Input::Device {
                device: from.byte("device number")?,
                event: decode_event(tag, from)?,
            }),
            NMI => Body::Input(Input::Nmi),
            PLUG => Body::Input(Input::Plug {
                device: from.byte("device number")?,
                spec: decode_spec(from.bytes(MAX_DEVICE_BYTES, "device")?)?,
                config: from
                    .bytes(MAX_DEVICE_CONFIG, "device's configuration")?
                    .to_vec(),
            }),
            UNPLUG => Body::Input(Input::Unplug {
                device: from.byte("device number")?,
            }),
            DEVICE_OUTPUT => Body::Output(OutputMark::Device {
                device: from.byte("device number")?,
                id: from.number("request id")?,
                hash: from.fixed_u64("request hash")?,
            }),
            CONSOLE_OUTPUT => Body::Output(OutputMark::Console {
                through: from.number("console count")?,
                hash: from.fixed_u64("console hash")?,
            }),
            DIGEST_HERE => Body::DigestHere {
                id: from.number("digest id")?,
            },
            DIGEST_VALUE => Body::DigestValue {
                id: from.number("digest id")?,
                components: decode_components(from)?,
            },
            PAUSE => Body::Control(Control::Pause),
            RESUME => Body::Control(Control::Resume),
            POWER_OFF => Body::Control(Control::PowerOff),
            END_OF_LOG => {
                let what = "end reason";
                Body::Control(Control::EndOfLog(match from.byte(what)? {
                    0 => EndReason::RecordingStopped,
                    1 => EndReason::ProtectionDisabled,
                    2 => EndReason::Shutdown,
                    tag => return Err(DecodeError::UnknownTag { what, tag }),
                }))
            }
            tag => {
                let what = "log entry";
                return Err(DecodeError::UnknownTag { what, tag });
            }
        })
    }
}

impl Entry {
    /// Bytes that it occupies in a buffer, near enough for a bound on buffers.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Entry>()
            + match &self.body {
                Body::Input(Input::SerialInput(bytes)) => bytes.len(),
                Body::Input(Input::Plug { config, .. }) => config.len(),
                Body::Input(Input::Device { event, .. }) => match event {
                    Event::Data { bytes, .. } => bytes.len(),
                    Event::Frames(frames) => frames.iter().map(|f| f.len() + 32).sum(),
                    Event::Typed(bytes) | Event::Stream(StreamEvent::Data { bytes, .. }) => {
                        bytes.len()
                    }
                    _ => 0,
                },
                Body::DigestValue { components, .. } => {
                    components.len() * (size_of::<ComponentDigest>() + 16)
                }
                _ => 0,
            }
    }
}

/// A device in the form of a machine's state. Its one encoding is the one that is read.
fn decode_spec(bytes: &[u8]) -> Result<DeviceSpec, DecodeError> {
    let spec: Option<DeviceSpec> = postcard::from_bytes(bytes).ok();
    spec.filter(|spec| spec.validate().is_ok())
        .filter(|spec| postcard::to_stdvec(spec).is_ok_and(|again| again == bytes))
        .ok_or(DecodeError::Impossible { what: "device" })
}

fn encode_event(event: &Event, out: &mut Vec<u8>) {
    match event {
        Event::Data { id, offset, bytes } => {
            put_number(out, *id);
            put_number(out, u64::from(*offset));
            put_bytes(out, bytes);
        }
        Event::Frames(frames) => {
            put_number(out, frames.len() as u64);
            for frame in frames {
                put_bytes(out, frame);
            }
        }
        Event::Announce => {}
        Event::Typed(bytes) => put_bytes(out, bytes),
        Event::Emitted { through } => put_number(out, *through),
        Event::Size { columns, rows } => {
            put_number(out, u64::from(*columns));
            put_number(out, u64::from(*rows));
        }
        Event::Balloon { pages } => put_number(out, u64::from(*pages)),
        Event::Stream(event) => encode_stream_event(event, out),
        Event::Completed { id, outcome } => {
            put_number(out, *id);
            out.push(match outcome {
                Outcome::Done => 0,
                Outcome::Failed => 1,
                Outcome::Unsupported => 2,
            });
        }
    }
}

fn decode_event(tag: u8, from: &mut Decoder<'_>) -> Result<Event, DecodeError> {
    let small = |from: &mut Decoder<'_>, what| Ok(from.length(u16::MAX.into(), what)? as u16);
    Ok(match tag {
        DEVICE_DATA => Event::Data {
            id: from.number("request id")?,
            offset: from.length(u32::MAX as usize, "data offset")? as u32,
            bytes: from.bytes(MAX_ENTRY_BYTES, "device data")?.to_vec(),
        },
        DEVICE_COMPLETED => Event::Completed {
            id: from.number("request id")?,
            outcome: decode_outcome(from)?,
        },
        DEVICE_FRAMES => {
            let count = from.length(MAX_FRAMES, "frame count")?;
            let frames = (0..count).map(|_| Ok(from.bytes(MAX_ENTRY_BYTES, "frame")?.to_vec()));
            Event::Frames(frames.collect::<Result<_, DecodeError>>()?)
        }
        DEVICE_ANNOUNCE => Event::Announce,
        DEVICE_TYPED => Event::Typed(from.bytes(MAX_ENTRY_BYTES, "console input")?.to_vec()),
        DEVICE_EMITTED => Event::Emitted {
            through: from.number("emitted count")?,
        },
        DEVICE_SIZE => Event::Size {
            columns: small(from, "columns")?,
            rows: small(from, "rows")?,
        },
        DEVICE_BALLOON => Event::Balloon {
            pages: from.length(u32::MAX as usize, "balloon pages")? as u32,
        },
        DEVICE_STREAM => Event::Stream(decode_stream_event(from)?),
        tag => {
            let what = "device event";
            return Err(DecodeError::UnknownTag { what, tag });
        }
    })
}

fn encode_stream_event(event: &StreamEvent, out: &mut Vec<u8>) {
    let (tag, stream) = match event {
        StreamEvent::Incoming { stream, .. } => (0, *stream),
        StreamEvent::Opened { stream } => (1, *stream),
        StreamEvent::Data { stream, .. } => (2, *stream),
        StreamEvent::Consumed { stream, .. } => (3, *stream),
        StreamEvent::Finished { stream } => (4, *stream),
        StreamEvent::Closed { stream } => (5, *stream),
        StreamEvent::Lost => (6, 0),
    };
    out.push(tag);
    put_number(out, stream);
    match event {
        StreamEvent::Incoming {
            host_port, port, ..
        } => {
            put_number(out, u64::from(*host_port));
            put_number(out, u64::from(*port));
        }
        StreamEvent::Data { bytes, .. } => put_bytes(out, bytes),
        StreamEvent::Consumed { count, .. } => put_number(out, u64::from(*count)),
        _ => {}
    }
}

fn decode_stream_event(from: &mut Decoder<'_>) -> Result<StreamEvent, DecodeError> {
    let what = "stream event";
    let tag = from.byte(what)?;
    let stream = from.number("stream")?;
    let word = |from: &mut Decoder<'_>, what| Ok(from.length(u32::MAX as usize, what)? as u32);
    Ok(match tag {
        0 => StreamEvent::Incoming {
            stream,
            host_port: word(from, "host port")?,
            port: word(from, "guest port")?,
        },
        1 => StreamEvent::Opened { stream },
        2 => StreamEvent::Data {
            stream,
            bytes: from.bytes(MAX_ENTRY_BYTES, "stream data")?.to_vec(),
        },
        3 => StreamEvent::Consumed {
            stream,
            count: word(from, "consumed bytes")?,
        },
        4 => StreamEvent::Finished { stream },
        5 => StreamEvent::Closed { stream },
        6 if stream == 0 => StreamEvent::Lost,
        tag => return Err(DecodeError::UnknownTag { what, tag }),
    })
}

fn decode_outcome(from: &mut Decoder<'_>) -> Result<Outcome, DecodeError> {
    let what = "outcome";
    Ok(match from.byte(what)? {
        0 => Outcome::Done,
        1 => Outcome::Failed,
        2 => Outcome::Unsupported,
        tag => return Err(DecodeError::UnknownTag { what, tag }),
    })
}

pub(crate) fn encode_components(components: &[ComponentDigest], out: &mut Vec<u8>) {
    put_number(out, components.len() as u64);
    for component in components {
        put_bytes(out, component.name.as_bytes());
        out.extend_from_slice(&component.value.to_le_bytes());
    }
}

pub(crate) fn decode_components(
    from: &mut Decoder<'_>,
) -> Result<Vec<ComponentDigest>, DecodeError> {
    let count = from.length(MAX_COMPONENTS, "component count")?;
    (0..count)
        .map(|_| {
            Ok(ComponentDigest {
                name: from.text(MAX_COMPONENT_NAME, "component name")?,
                value: from.fixed_u64("component hash")?,
            })
        })
        .collect()
}
