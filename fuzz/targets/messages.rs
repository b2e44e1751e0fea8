//! What a peer or a file sends: frames, messages, batches of log entries, heartbeats.
#![no_main]

use ft::channel::{Heartbeat, Message};
use ft::frame::{self, FrameReader, Kind};
use ft::log::{BatchReader, FileReader};
use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use machine::Position;

const KINDS: [Kind; 11] = [
    Kind::FileHeader,
    Kind::Hello,
    Kind::HelloAck,
    Kind::Blob,
    Kind::RamPages,
    Kind::CloneEnd,
    Kind::LogBatch,
    Kind::Ack,
    Kind::Ping,
    Kind::DigestMismatch,
    Kind::Goodbye,
];

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes::new(data);
    // As it is: mostly broken frames.
    let mut reader = FrameReader::new();
    reader.feed(data);
    while let Ok(Some(_)) = reader.next_frame() {}
    let _ = Heartbeat::decode(data);
    // In sound frames: checksums do not guard against a peer that means it.
    let mut stream = Vec::new();
    while !bytes.is_empty() {
        let kind = KINDS[usize::from(bytes.byte()) % KINDS.len()];
        let length = (usize::from(bytes.byte()) * 4).min(kind.cap());
        frame::seal(kind, bytes.take(length), &mut stream);
    }
    messages(&stream);
    file(&stream);
});

fn messages(stream: &[u8]) {
    let mut batches = BatchReader::new(0, Position(0));
    let mut reader = FrameReader::new();
    reader.feed(stream);
    while let Ok(Some(frame)) = reader.next_frame() {
        let Ok(message) = Message::decode(&frame) else {
            continue;
        };
        let mut again = Vec::new();
        message.encode(&mut again);
        let mut second = FrameReader::new();
        second.feed(&again);
        let frame = second.next_frame().expect("what we encode is sound");
        let frame = frame.expect("and whole");
        let decoded = Message::decode(&frame).expect("and can be decoded");
        assert_eq!(decoded, message);
        if let Message::LogBatch(batch) = message {
            let _ = batches.read(batch);
        }
    }
}

fn file(stream: &[u8]) {
    let mut reader = FileReader::new();
    // In two parts, as a read from a file may cut it.
    let (front, back) = stream.split_at(stream.len() / 2);
    for part in [front, back] {
        reader.feed(part);
        if !matches!(reader.header(), Ok(Some(_))) {
            continue;
        }
        while let Ok(Some(_)) = reader.next_item() {}
    }
    let _ = reader.finish();
}
