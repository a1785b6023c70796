//! The network that is measured, and what a bundle says of its lists.
use super::{CommandError, EngineArgs};
use crate::{
    bundle::load::{self as bundle, Bundle, BundleSource, CONFIG_FILE},
    decode::{
        adaptive::Adaptive,
        batch::Finish,
        pruning::{IsList, Pruning},
    },
    experiment::policy::{Draw, EarlyStopping},
    model::{
        config::DecoderConfig,
        gguf::Gguf,
        precision::Precision,
        reward_head::RewardHead,
        transformer::Transformer,
        weights::{Checkpoint, ModelError, Parameters, TensorSource},
    },
    serve::{demo, generation::confidence},
    text::parse,
};
use candle_core::{DType, Device, Tensor};
use std::{path::Path, sync::Arc};

/// What is measured.
pub(super) struct Subject {
    pub(super) model: Arc<Transformer>,
    /// Ids that end a query, where there is a tokenizer to say.
    pub(super) boundary_ids: Arc<[u32]>,
    /// What its bundle brings; none of a model folder.
    judge: Option<Judge>,
}

/// Who says which rows are lists, and what they promise.
struct Judge {
    is_list: IsList,
    head: Option<Arc<RewardHead>>,
}

impl Subject {
    /// The network of a bundle or of a model folder.
    pub(super) fn of(args: &EngineArgs) -> Result<Self, CommandError> {
        let device = args.device.open()?;
        if let Some(dir) = &args.model {
            let model = Arc::new(model(dir, args.dtype, &device)?);
            return Ok(Self { model, boundary_ids: Arc::new([]), judge: None });
        }
        let Bundle { model, tokens, head, .. } = match &args.bundle {
            Some(dir) => bundle::load(BundleSource::At(dir), args.dtype, &device)?,
            None => demo::bundle_in(args.dtype, &device)?,
        };
        let boundary_ids = tokens.boundary_ids();
        let is_list: IsList =
            Arc::new(move |row| row.finish == Finish::Stop && parse::parse(&tokens.decode(&row.ids)).is_ok());
        let judge = Some(Judge { is_list, head: head.map(Arc::new) });
        Ok(Self { model: Arc::new(model), boundary_ids, judge })
    }

    /// How weak lists are stopped, as in the server.
    pub(super) fn pruning(&self, mode: EarlyStopping) -> Result<Option<Pruning>, CommandError> {
        let Some(confidence) = confidence(mode) else { return Ok(None) };
        let head_of = |judge: &Judge| {
            let head = judge.head.as_ref().filter(|head| head.foresees())?;
            // Its prompts are of no reader: the head reads of their interests what it reads where nothing is known.
            let is_list = Arc::clone(&judge.is_list);
            Some(Pruning { head: Arc::clone(head), confidence, is_list, meets: None })
        };
        let pruning = self.judge.as_ref().and_then(head_of);
        pruning.map(Some).ok_or_else(|| {
            CommandError::Usage("early stopping needs a bundle whose reward head foresees".to_owned())
        })
    }

    /// How it is found out whether a reader's first lists agree.
    pub(super) fn adaptive(&self, draw: Draw) -> Result<Option<Adaptive>, CommandError> {
        match (draw, &self.judge) {
            (Draw::All, _) => Ok(None),
            (Draw::AsNeeded, Some(judge)) => Ok(Some(Adaptive { is_list: Arc::clone(&judge.is_list) })),
            (Draw::AsNeeded, None) => Err(CommandError::Usage(
                "drawing as needed needs a bundle, which says what a list is".to_owned(),
            )),
        }
    }
}

fn model(dir: &Path, precision: Precision, device: &Device) -> Result<Transformer, CommandError> {
    if Gguf::is_at(dir) {
        let mut source = Gguf::open(dir, precision.dtype(), device)?;
        let config = source.config.clone();
        return Ok(precision.load(&config, &mut source, device)?);
    }
    let path = dir.join(CONFIG_FILE);
    let json = std::fs::read(&path).map_err(|source| CommandError::File { path, source })?;
    let config = DecoderConfig::parse(&json, CONFIG_FILE)?;
    if Checkpoint::is_in(dir) {
        let mut source = Checkpoint::open(dir, precision.dtype(), device)?;
        return Ok(precision.load(&config, &mut source, device)?);
    }
    let parameters = Parameters::fresh(1, &Device::Cpu);
    let mut source = Random { parameters, width: config.hidden_size, dtype: precision.dtype(), device };
    Ok(precision.load(&config, &mut source, device)?)
}

/// Deviation of the logits of random weights. Trained models are about as sure; fresh ones are not sure at all, and a sampler that
/// keeps the likeliest tokens would have to sort the whole vocabulary.
const LOGIT_DEVIATION: f64 = 4.5;
/// The norm before the output head scales all logits.
const LAST_NORM: &str = "model.norm.weight";

/// Fresh weights in any dtype on any device.
struct Random<'a> {
    parameters: Parameters,
    width: usize,
    dtype: DType,
    device: &'a Device,
}

impl TensorSource for Random<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = self.parameters.tensor(name, shape)?.detach();
        #[allow(clippy::cast_precision_loss, reason = "widths are small")]
        let fresh_deviation = f64::from(Parameters::INITIAL_DEVIATION) * (self.width as f64).sqrt();
        let tensor = if name == LAST_NORM { (tensor * (LOGIT_DEVIATION / fresh_deviation))? } else { tensor };
        Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?)
    }

    fn contains(&self, name: &str) -> bool {
        self.parameters.contains(name)
    }
}
