//! Raw images: what is written, bounds, locks, and what is no image.

use std::fs::File;
use std::path::Path;

use block::{Format, Image, ImageError, ImageFile, LockError, LockGranularity, OpenOptions};
use vmm_sys_util::tempdir::TempDir;

const READING: OpenOptions = OpenOptions {
    read_only: true,
    direct: false,
    format: None,
    backing_files: false,
    lock_granularity: LockGranularity::ByteRange,
};

fn image(length: u64, options: OpenOptions) -> (TempDir, Box<dyn Image>) {
    let directory = TempDir::new().unwrap();
    let path = directory.as_path().join("image");
    File::create(&path).unwrap().set_len(length).unwrap();
    let file = ImageFile::open(&path, options).unwrap();
    (directory, file.image().unwrap())
}

fn refused(path: &Path) -> ImageError {
    match ImageFile::open(path, OpenOptions::default()).and_then(|file| file.image().map(drop)) {
        Ok(()) => panic!("{} is an image", path.display()),
        Err(error) => error,
    }
}

#[test]
fn what_is_written_is_read() {
    for direct in [false, true] {
        let options = OpenOptions {
            direct,
            ..OpenOptions::default()
        };
        let (_directory, mut image) = image(1 << 20, options);
        assert_eq!(image.format(), Format::Raw);
        let bytes: Vec<u8> = (0..8192).map(|i| (i / 7) as u8).collect();
        image.write(4096, &bytes, false).unwrap();
        image.write(4096 + 8192, &bytes, true).unwrap();
        image.flush().unwrap();
        let mut found = vec![0; 8192];
        image.read(8192, &mut found).unwrap();
        assert_eq!(found[..4096], bytes[4096..]);
        assert_eq!(found[4096..], bytes[..4096]);
        for unmap in [false, true] {
            image.write(0, &bytes, false).unwrap();
            image.write_zeroes(0, 4096, unmap).unwrap();
            image.read(0, &mut found).unwrap();
            assert_eq!(found[..4096], [0; 4096]);
            assert_eq!(found[4096..], bytes[4096..]);
        }
        image.discard(0, 8192).unwrap();
    }
}

#[test]
fn nothing_is_beyond_the_end() {
    let (_directory, mut image) = image(10_000, OpenOptions::default());
    assert_eq!(image.size(), 9728);
    image.read(9728, &mut [0; 512]).unwrap_err();
    image.write(9216, &[0; 1024], false).unwrap_err();
    image.write(u64::MAX, &[0; 512], false).unwrap_err();
    image.discard(0, 10_240).unwrap_err();
    image.write_zeroes(9728, 512, true).unwrap_err();
    image.write(9216, &[0; 512], false).unwrap();
}

#[test]
fn a_written_image_has_one_user() {
    for lock_granularity in [LockGranularity::ByteRange, LockGranularity::Full] {
        let directory = TempDir::new().unwrap();
        let path = directory.as_path().join("image");
        File::create(&path).unwrap().set_len(4096).unwrap();
        let writing = OpenOptions {
            lock_granularity,
            ..OpenOptions::default()
        };
        let first = ImageFile::open(&path, writing).unwrap();
        let second = ImageFile::open(&path, READING).unwrap();
        assert!(!second.is_locked().unwrap());
        first.lock().unwrap();
        assert!(second.is_locked().unwrap());
        assert!(!first.is_locked().unwrap(), "it is its own");
        assert!(matches!(second.lock(), Err(LockError::Taken)));
        // The image made of it has the lock too.
        let image = first.image().unwrap();
        drop(first);
        assert!(matches!(second.lock(), Err(LockError::Taken)));
        drop(image);
        second.lock().unwrap();
        let third = ImageFile::open(&path, READING).unwrap();
        third.lock().unwrap();
        let mut image = second.image().unwrap();
        image.write(0, &[1; 512], false).unwrap_err();
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let directory = TempDir::new().unwrap();
    let error = refused(directory.as_path());
    assert!(matches!(error, ImageError::Open { .. }), "{error}");
    let error = refused(Path::new("/dev/zero"));
    assert!(matches!(error, ImageError::NoImage { .. }), "{error}");
    let short = directory.as_path().join("short");
    std::fs::write(&short, [0; 100]).unwrap();
    let error = refused(&short);
    assert!(matches!(error, ImageError::NoImage { .. }), "{error}");
    let mut vhdx = b"vhdxfile".to_vec();
    vhdx.resize(4096, 0);
    std::fs::write(&short, vhdx).unwrap();
    let error = refused(&short);
    assert!(matches!(error, ImageError::UnknownFormat { .. }), "{error}");
}

/// A guest that could turn its raw disk into an image of another format would choose what the next
/// boot reads.
#[test]
fn a_detected_raw_image_stays_one() {
    let (_directory, mut detected) = image(1 << 20, OpenOptions::default());
    let mut disguise = b"QFI\xFB\0\0\0\x03".to_vec();
    disguise.resize(4096, 0);
    detected.write(0, &disguise, false).unwrap_err();
    detected.write(512, &disguise, false).unwrap();
    detected.write(0, &[7; 4096], false).unwrap();
    let told = OpenOptions {
        format: Some(Format::Raw),
        ..OpenOptions::default()
    };
    let (_directory, mut told) = image(1 << 20, told);
    told.write(0, &disguise, false).unwrap();
}

/// The host's file becomes shorter under a running guest: errors, and no crash.
#[test]
fn a_file_that_shrinks_gives_errors() {
    let (directory, mut image) = image(1 << 20, OpenOptions::default());
    let path = directory.as_path().join("image");
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    image.read(8192, &mut [0; 512]).unwrap_err();
    image.read(0, &mut [0; 512]).unwrap();
    // Removed: it lives on as long as it is open.
    std::fs::remove_file(&path).unwrap();
    image.write(8192, &[1; 512], true).unwrap();
    image.read(8192, &mut [0; 512]).unwrap();
}
