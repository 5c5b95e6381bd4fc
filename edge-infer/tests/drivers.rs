//! The drivers over embedded-hal, against a hand-made SPI sensor that speaks the packet protocol.
use core::convert::Infallible;

use embedded_hal::digital::{ErrorType as PinError, InputPin, OutputPin};
use embedded_hal::spi::{ErrorKind, ErrorType, Operation, SpiDevice};
use gsacp_edge::hardware::{PinAlarm, READ_HEADER, READ_PIXELS, SpiSensor};
use gsacp_edge::packet::Header;
use gsacp_edge::{Alarm, Fault, FrameSource};

const SIZE: (u16, u16) = (4, 2);

/// Sends header and pixels of its frames, one after the other; a frame of `None` is a bus error.
struct Chip {
    frames: Vec<Option<(Vec<u8>, Vec<u8>)>>,
    at: usize,
}

impl ErrorType for Chip {
    type Error = ErrorKind;
}

impl SpiDevice for Chip {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), ErrorKind> {
        let Some((header, pixels)) = &self.frames[self.at] else {
            self.at += 1;
            return Err(ErrorKind::Other);
        };
        let [Operation::Write([command]), Operation::Read(answer)] = operations else {
            panic!("an unknown transaction")
        };
        match *command {
            READ_HEADER => answer.copy_from_slice(header),
            READ_PIXELS => {
                answer.copy_from_slice(pixels);
                self.at += 1;
            }
            other => panic!("an unknown command {other}"),
        }
        Ok(())
    }
}

/// Says "ready" from the given number of looks on.
struct Ready(u32);
impl PinError for Ready {
    type Error = Infallible;
}
impl InputPin for Ready {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        self.0 = self.0.saturating_sub(1);
        Ok(self.0 == 0)
    }
    fn is_low(&mut self) -> Result<bool, Infallible> {
        self.is_high().map(|high| !high)
    }
}

fn good(sequence: u16) -> Option<(Vec<u8>, Vec<u8>)> {
    let pixels: Vec<u8> = (0..8).map(|i| i + sequence as u8).collect();
    Some((Header::describe(sequence, SIZE.0, SIZE.1, &pixels).encode().to_vec(), pixels))
}

fn read(frames: Vec<Option<(Vec<u8>, Vec<u8>)>>) -> Vec<Result<u16, Fault>> {
    let count = frames.len();
    let mut sensor = SpiSensor::new(Chip { frames, at: 0 }, Ready(1), 1);
    (0..count).map(|_| sensor.next_frame(SIZE, &mut [0; 8])).collect()
}

#[test]
fn a_frame_arrives_over_spi() {
    let mut pixels = [0; 8];
    let mut sensor = SpiSensor::new(Chip { frames: vec![good(3)], at: 0 }, Ready(5), 5);
    assert_eq!(sensor.next_frame(SIZE, &mut pixels), Ok(3));
    assert_eq!(pixels, [3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_sensor_that_is_not_ready_is_asked_a_bounded_number_of_times() {
    let mut sensor = SpiSensor::new(Chip { frames: vec![good(3)], at: 0 }, Ready(6), 5);
    assert_eq!(sensor.next_frame(SIZE, &mut [0; 8]), Err(Fault::NotReady));
    assert_eq!(sensor.next_frame(SIZE, &mut [0; 8]), Ok(3));
}

#[test]
fn after_every_kind_of_bad_frame_the_next_good_one_is_read() {
    let (header, pixels) = good(1).unwrap();
    let mut unmarked = header.clone();
    unmarked[0] = 0;
    let mut flipped = pixels.clone();
    flipped[7] ^= 1;
    let turned = Header::describe(1, SIZE.1, SIZE.0, &pixels).encode().to_vec();
    let frames = vec![
        Some((unmarked, pixels.clone())),
        good(2),
        Some((header, flipped)),
        good(4),
        Some((turned, pixels)),
        good(6),
        None,
        good(8),
    ];
    let expected = [
        Err(Fault::BadSync),
        Ok(2),
        Err(Fault::BadChecksum),
        Ok(4),
        Err(Fault::WrongSize { width: 2, height: 4 }),
        Ok(6),
        Err(Fault::Bus),
        Ok(8),
    ];
    assert_eq!(read(frames), expected);
}

/// Remembers its level; fails when told to.
struct Pin {
    high: bool,
    broken: bool,
}
#[derive(Debug)]
struct Broken;
impl embedded_hal::digital::Error for Broken {
    fn kind(&self) -> embedded_hal::digital::ErrorKind {
        embedded_hal::digital::ErrorKind::Other
    }
}
impl PinError for Pin {
    type Error = Broken;
}
impl OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), Broken> {
        self.high = false;
        if self.broken { Err(Broken) } else { Ok(()) }
    }
    fn set_high(&mut self) -> Result<(), Broken> {
        self.high = true;
        if self.broken { Err(Broken) } else { Ok(()) }
    }
}

#[test]
fn the_alarm_pin_is_active_high_and_its_failure_is_a_bus_fault() {
    let mut alarm = PinAlarm(Pin { high: false, broken: false });
    assert_eq!(alarm.set(true), Ok(()));
    assert!(alarm.0.high);
    assert_eq!(alarm.set(false), Ok(()));
    assert!(!alarm.0.high);
    assert_eq!(PinAlarm(Pin { high: false, broken: true }).set(true), Err(Fault::Bus));
}
