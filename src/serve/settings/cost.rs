//! `[cost]`: what the device costs.
use crate::{serve::cost::Price, settings::Reader};

/// Most that an hour of a device may cost: far more than any does, and in billionths within what numbers hold exactly.
const DEVICE_HOUR_PRICE_MAX: f64 = 1_000_000.0;
/// Prices and costs are whole billionths of the currency's unit.
const NANOS_PER_UNIT: u64 = 1_000_000_000;
/// Longest name of a price: it comes back with every answer.
const PRICE_VERSION_BYTES_MAX: usize = 64;

/// `[cost]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostSettings {
    /// `device_hour_price`, `currency` and `price_version`.
    ///
    /// The price is that of an hour of the device on which the network computes, a GPU or the CPU's machine, in units of the currency, a
    /// code of ISO 4217. Default 1 of XXX, which ISO 4217 gives to what is no currency: costs are then hours of the device, and arms can
    /// be compared before anybody knows a price. 0: costs are not told. The version says which price a cost was told at; default empty.
    pub price: Price,
}

impl CostSettings {
    pub(super) fn demo() -> Self {
        let (currency, version) = ("XXX".to_owned(), String::new());
        Self { price: Price { nanos_per_hour: NANOS_PER_UNIT, currency, version } }
    }
}

pub(super) fn read(reader: &mut Reader, default: CostSettings) -> CostSettings {
    let is_code = |text: &&str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let currency = |text: &str| Some(text).filter(is_code).map(str::to_owned);
    let is_name = |text: &&str| {
        text.len() <= PRICE_VERSION_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let version = |text: &str| Some(text).filter(is_name).map(str::to_owned);
    let Price { nanos_per_hour, currency: known_currency, version: known_version } = default.price;
    #[allow(clippy::cast_precision_loss, reason = "a price has fewer than 52 bits that matter")]
    let per_hour = nanos_per_hour as f64 / NANOS_PER_UNIT as f64;
    let price = reader.number("cost.device_hour_price", 0.0..=DEVICE_HOUR_PRICE_MAX, per_hour);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range of the setting"
    )]
    let nanos_per_hour = (price * NANOS_PER_UNIT as f64).round() as u64;
    CostSettings {
        price: Price {
            nanos_per_hour,
            currency: reader.text(
                "cost.currency",
                "three capital letters of ISO 4217",
                currency,
                known_currency,
            ),
            version: reader.text(
                "cost.price_version",
                &format!("at most {PRICE_VERSION_BYTES_MAX} visible ASCII characters"),
                version,
                known_version,
            ),
        },
    }
}
