//! The child's end of the socket to the parent: frames with descriptors come in, reports go out.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;

use super::report::{At as _, refusal};
use crate::error::{SetupError, Stage};
use crate::spec::MAX_CONTENTS;
use crate::wire::Report;

/// Longest frame: the greatest contents in base64, and room for the rest of a spec.
const MAX_FRAME: usize = MAX_CONTENTS / 3 * 4 + (16 << 20);

/// Most descriptors that ride along with a frame.
const MAX_DESCRIPTORS: usize = 4;

/// A frame, and the descriptors that came with it.
pub(super) struct Frame<T> {
    pub(super) value: T,
    pub(super) descriptors: VecDeque<OwnedFd>,
}

/// The next frame, or `None` when the parent ended before it was whole.
pub(super) fn receive<T: DeserializeOwned>(
    control: BorrowedFd<'_>,
) -> Result<Option<Frame<T>>, SetupError> {
    let mut length = [0; 4];
    let mut descriptors = VecDeque::new();
    if !fill(control, &mut length, &mut descriptors)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(refusal(
            Stage::ReadSpec,
            "",
            format!("{length} bytes, at most {MAX_FRAME} can be taken"),
        ));
    }
    let mut bytes = vec![0; length];
    if !fill(control, &mut bytes, &mut descriptors)? {
        return Ok(None);
    }
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| refusal(Stage::ReadSpec, "", error.to_string()))?;
    Ok(Some(Frame { value, descriptors }))
}

/// Takes the next descriptor of a frame.
pub(super) fn descriptor(
    descriptors: &mut VecDeque<OwnedFd>,
    what: &str,
) -> Result<OwnedFd, SetupError> {
    descriptors
        .pop_front()
        .ok_or_else(|| refusal(Stage::Streams, what, "the parent sent none"))
}

/// Reads until `bytes` are full; false when the parent ended before.
fn fill(
    control: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> Result<bool, SetupError> {
    let mut done = 0;
    while done < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes[done..])];
        let flags = RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(control, &mut slices, &mut ancillary, flags) {
            Ok(message) if message.bytes == 0 => return Ok(false),
            Ok(message) => done += message.bytes,
            Err(Errno::INTR) => continue,
            Err(Errno::CONNRESET) => return Ok(false),
            Err(errno) => return Err(errno).at(Stage::ReadSpec, ""),
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
    }
    Ok(true)
}

/// Sends one report. When the parent is gone there is nobody to tell.
pub(super) fn send(control: BorrowedFd<'_>, report: &Report) {
    send_with(control, report, None);
}

/// Sends one report with a descriptor.
pub(super) fn send_with(
    control: BorrowedFd<'_>,
    report: &Report,
    descriptor: Option<BorrowedFd<'_>>,
) {
    let Ok(mut line) = serde_json::to_vec(report) else {
        return;
    };
    line.push(b'\n');
    let mut rest = line.as_slice();
    let mut descriptor = descriptor;
    while !rest.is_empty() {
        match send_some(control, rest, descriptor) {
            Ok(sent) => {
                rest = &rest[sent..];
                descriptor = None;
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn send_some(
    control: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|fd| [fd]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let slices = [io::IoSlice::new(bytes)];
    rustix::net::sendmsg(
        control.as_fd(),
        &slices,
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
}
