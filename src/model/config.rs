//! `config.json`: every size of a model, checked against every other.

use std::path::Path;

use num_integer::Integer;
use serde::Deserialize;
use serde_json::Value;

use super::pattern::{self, Layer};
use super::{DrawParams, ModelError, checkpoint};
use crate::draw::or_neutral;
use crate::predictor::{self, FilterPlan};

/// The sizes and the pattern of a model. Made only by [`ModelConfig::parse`], so all hold together.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `D`, the width of the residual stream.
    pub d_model: usize,
    /// `H`, query heads.
    pub n_heads: usize,
    /// `G`, key and value heads; divides `H`.
    pub n_kv_heads: usize,
    /// `F` over `D`.
    pub mlp_ratio: usize,
    /// `W`, taps of the causal convolution, the present one included.
    pub conv_width: usize,
    /// Positions the model is said to span: that of the file, or of a layer that reaches farther.
    pub context: u64,
    /// Who sees whom, one per layer.
    pub layers: Vec<Layer>,
    /// Rotary angles are whole multiples of a turn divided by this.
    pub rope_period: usize,
    /// One per pair of a head's dimensions.
    pub rope_harmonics: Vec<u32>,
    /// The filters of the adaptive predictor whose expectations the network sees; none without one.
    pub predictor: Vec<FilterPlan>,
    /// How its codes are drawn where nobody says otherwise.
    pub draw: DrawParams,
    /// Codes per second.
    pub sample_rate_hz: u32,
    /// What a code stands for.
    pub codec: Codec,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
}

/// How sound becomes codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// [`crate::mulaw`].
    Mulaw8,
}

/// No configuration is longer.
const MAX_BYTES: u64 = 1 << 20;

/// The most numbers that the caches of one lane hold: 4 GiB in int8.
const MAX_LANE_VALUES: usize = 4 << 30;

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    mlp_ratio: usize,
    conv_width: usize,
    stride: usize,
    context: usize,
    pattern: Vec<Value>,
    rope_period: usize,
    rope_harmonics: Vec<u32>,
    #[serde(default)]
    predictor: Vec<FilterPlan>,
    #[serde(default, deserialize_with = "or_neutral")]
    draw: DrawParams,
    sample_rate: u32,
    codec: String,
    norm_eps: f32,
}

impl ModelConfig {
    pub(super) fn load(path: &Path) -> Result<Self, ModelError> {
        let refuse = |reason| ModelError::Config {
            path: path.into(),
            reason,
        };
        let bytes = checkpoint::read_up_to(path, MAX_BYTES).map_err(|source| ModelError::Read {
            path: path.into(),
            source,
        })?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(refuse(format!("more than {MAX_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| refuse(error.to_string()))?;
        Self::parse(&text).map_err(refuse)
    }

    /// Reads the text of a `config.json`; the error is a sentence that names what is wrong.
    pub fn parse(json: &str) -> Result<Self, String> {
        let file: ConfigFile = serde_json::from_str(json).map_err(|error| error.to_string())?;
        file.check_sizes()?;
        let codec = match file.codec.as_str() {
            "mulaw8" => Codec::Mulaw8,
            other => {
                return Err(format!(
                    "codec \"{other}\" is unknown; this version knows mulaw8"
                ));
            }
        };
        let reach = pattern::Defaults {
            stride: file.stride,
            context: file.context,
        };
        let entries = file.pattern.iter().enumerate();
        let layers = entries.map(|(i, entry)| {
            Layer::parse(entry, &reach, file.n_kv_heads).map_err(|e| format!("pattern[{i}]: {e}"))
        });
        let layers = layers.collect::<Result<Vec<_>, String>>()?;
        file.check_rotations(&layers)?;
        check_latents(&layers)?;
        file.check_memory(&layers)?;
        predictor::check(&file.predictor)?;
        file.draw.check()?;
        let farthest = layers.iter().map(|layer| layer.reach()).max().unwrap_or(1);
        Ok(Self {
            context: farthest.max(file.context as u64),
            d_model: file.d_model,
            n_heads: file.n_heads,
            n_kv_heads: file.n_kv_heads,
            mlp_ratio: file.mlp_ratio,
            conv_width: file.conv_width,
            layers,
            rope_period: file.rope_period,
            // Only the rest matters, and it cannot overflow later.
            rope_harmonics: file
                .rope_harmonics
                .iter()
                .map(|h| h % file.rope_period as u32)
                .collect(),
            predictor: file.predictor,
            draw: file.draw,
            sample_rate_hz: file.sample_rate,
            codec,
            norm_eps: file.norm_eps,
        })
    }

    /// `L`.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// `K`, the size of a head.
    pub fn head_size(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// `G·K`, the width of the keys, and of the values, of one position.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_size()
    }

    /// Numbers of the predictor that the network sees at a position; 0 without one.
    pub fn predictor_width(&self) -> usize {
        match self.predictor.as_slice() {
            [] => 0,
            plan => predictor::n_places(plan) * predictor::WAVES,
        }
    }

    /// `F`.
    pub fn mlp_width(&self) -> usize {
        self.mlp_ratio * self.d_model
    }

    /// How many positions the output depends on, layers and convolutions stacked; a predictor
    /// remembers more, ever more faintly, and what is kept for ever comes on top.
    pub fn receptive_field(&self) -> u64 {
        let taps = self.conv_width as u64 - 1;
        1 + self
            .layers
            .iter()
            .map(|layer| layer.reach() - 1 + taps)
            .sum::<u64>()
    }

    /// After how many positions all slots and rotations are where they were, if that fits a u64.
    pub fn cycle(&self) -> Option<u64> {
        let period = self.rope_period as u64;
        self.layers
            .iter()
            .try_fold(1, |all, layer| lcm(all, layer.cycle(period)?))
    }
}

impl ConfigFile {
    /// Refuses patterns whose distances the rotation cannot tell apart.
    fn check_rotations(&self, layers: &[Layer]) -> Result<(), String> {
        let too_far = |layer: &&Layer| layer.n_angles() > self.rope_period;
        match layers.iter().enumerate().find(|(_, layer)| too_far(layer)) {
            Some((i, layer)) => Err(format!(
                "pattern[{i}]: {} reaches over {} rotations, rope_period is only {}",
                layer.kind(),
                layer.n_angles(),
                self.rope_period
            )),
            None => Ok(()),
        }
    }

    /// Refuses patterns whose keys and values no machine would hold.
    fn check_memory(&self, layers: &[Layer]) -> Result<(), String> {
        let heads = layers.iter().flat_map(|layer| layer.heads(self.n_kv_heads));
        let n_slots = heads.fold(0usize, |sum, head| sum.saturating_add(head.n_slots()));
        let n_values = n_slots.saturating_mul(2 * (self.d_model / self.n_heads));
        if n_values > MAX_LANE_VALUES {
            return Err(format!(
                "one stream would keep {n_values} keys and values; {MAX_LANE_VALUES} is the most"
            ));
        }
        Ok(())
    }

    /// Refuses sizes that do not fit together, or that no model of this kind could have.
    fn check_sizes(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, most: usize| match value {
            0 => Err(format!("{name} is 0")),
            v if v > most => Err(format!(
                "{name} is {v}, more than the {most} this version takes"
            )),
            _ => Ok(()),
        };
        within("d_model", self.d_model, 4096)?;
        within("n_layers", self.n_layers, 256)?;
        within("n_heads", self.n_heads, 256)?;
        within("n_kv_heads", self.n_kv_heads, 256)?;
        within("mlp_ratio", self.mlp_ratio, 16)?;
        within("conv_width", self.conv_width, 64)?;
        within("stride", self.stride, 1 << 20)?;
        within("context", self.context, 1 << 26)?;
        within("rope_period", self.rope_period, 1 << 24)?;
        if !(1_000..=192_000).contains(&self.sample_rate) {
            let got = self.sample_rate;
            return Err(format!(
                "sample_rate is {got}; it must be from 1000 to 192000 codes a second"
            ));
        }
        let divides = |small: (&str, usize), large: (&str, usize)| {
            if large.1.is_multiple_of(small.1) {
                Ok(())
            } else {
                Err(format!(
                    "{} ({}) does not divide {} ({})",
                    small.0, small.1, large.0, large.1
                ))
            }
        };
        divides(("n_heads", self.n_heads), ("d_model", self.d_model))?;
        divides(("n_kv_heads", self.n_kv_heads), ("n_heads", self.n_heads))?;
        divides(("stride", self.stride), ("context", self.context))?;
        let head_size = self.d_model / self.n_heads;
        if !head_size.is_multiple_of(2) {
            return Err(format!(
                "d_model / n_heads is {head_size}; it must be even to be rotated"
            ));
        }
        let same = |what: &str, got: usize, expected: usize| {
            if got == expected {
                Ok(())
            } else {
                Err(format!("{what}: {got} given, {expected} needed"))
            }
        };
        same("entries of pattern", self.pattern.len(), self.n_layers)?;
        same(
            "entries of rope_harmonics",
            self.rope_harmonics.len(),
            head_size / 2,
        )?;
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(format!(
                "norm_eps is {}; it must be a positive number",
                self.norm_eps
            ));
        }
        Ok(())
    }
}

/// Refuses latents that are not the first layer's, and later layers that see more than those.
fn check_latents(layers: &[Layer]) -> Result<(), String> {
    for (i, layer) in layers.iter().enumerate() {
        let Some(latents) = layer.patterns().filter_map(|head| head.above()).min() else {
            continue;
        };
        let is_beyond = |above: &Layer| above.reach() > latents || above.kept() > 0;
        if i > 0 {
            return Err(format!(
                "pattern[{i}]: latent attends to the inputs, so only pattern[0] can be it"
            ));
        }
        if let Some(above) = (1..layers.len()).find(|above| is_beyond(&layers[*above])) {
            return Err(format!(
                "pattern[{above}]: {} reaches over {} positions, or for ever, where pattern[0] \
                 leaves {latents} latents",
                layers[above].kind(),
                layers[above].reach()
            ));
        }
    }
    Ok(())
}

/// Least common multiple, if it fits.
pub(crate) fn lcm(a: u64, b: u64) -> Option<u64> {
    (a / a.gcd(&b)).checked_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reference() -> Value {
        serde_json::from_str(include_str!("../../tests/golden/reference/config.json")).unwrap()
    }

    fn refusal(change: impl FnOnce(&mut Value)) -> String {
        let mut config = reference();
        change(&mut config);
        ModelConfig::parse(&config.to_string()).unwrap_err()
    }

    #[test]
    fn the_reference_reads_and_its_derived_sizes_are_those_of_the_contract() {
        let config = ModelConfig::parse(&reference().to_string()).unwrap();
        assert_eq!(
            (config.n_layers(), config.head_size(), config.mlp_width()),
            (8, 32, 512)
        );
        assert_eq!(config.context, 65_536);
        assert_eq!(config.receptive_field(), 132_115);
        assert_eq!(config.cycle(), Some(1_048_576));
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        assert!(refusal(|c| c["codec"] = json!("opus")).contains("opus"));
        assert!(refusal(|c| c["pattern"][2] = json!("dense")).contains("dense"));
        assert!(refusal(|c| c["flavour"] = json!(1)).contains("flavour"));
        assert!(
            refusal(|c| c["pattern"][0] = json!({"kind": "local", "window": 9, "x": 1}))
                .contains("`x`")
        );
    }

    #[test]
    fn drawing_is_neutral_unless_the_model_says_otherwise() {
        let mut config = reference();
        let draw = |config: &Value| ModelConfig::parse(&config.to_string()).unwrap().draw;
        assert_eq!(draw(&config), DrawParams::default());
        config["draw"] = json!({"max_entropy": 4.5});
        let expected = DrawParams {
            max_entropy: 4.5,
            ..DrawParams::default()
        };
        assert_eq!(draw(&config), expected);
        assert!(refusal(|c| c["draw"] = json!({"luck": 7})).contains("luck"));
        for (key, value) in [
            ("temperature", 0.001),
            ("max_entropy", 8.5),
            ("max_rise", -1.0),
            ("min_entropy", 8.5),
            ("leveling", 0.3),
            ("max_click", 0.9),
            ("top_p", 0.0),
            ("min_p", 1.0),
        ] {
            let why = refusal(|c| c["draw"] = json!({ key: value }));
            assert!(why.contains(&format!("draw: {key} is {value}")), "{why}");
        }
    }

    #[test]
    fn latents_come_first_and_bound_what_lies_above() {
        let latent = |latents: usize| json!({"kind": "latent", "inputs": 512, "latents": latents});
        let why = refusal(|c| c["pattern"][1] = latent(256));
        assert!(why.contains("only pattern[0]"), "{why}");
        let why = refusal(|c| c["pattern"][0] = latent(256));
        assert!(why.contains("pattern[3]: strided reaches over"), "{why}");
        let anchors =
            json!({"kind": "global", "anchors": 9, "beside": {"kind": "local", "window": 9}});
        let near = json!({"kind": "local", "window": 9});
        let why = refusal(|c| {
            c["pattern"] = json!([latent(256), near, near, near, near, near, near, anchors]);
        });
        assert!(why.contains("for ever"), "{why}");
        let mut config = reference();
        config["pattern"] = json!([
            latent(256),
            "local",
            "local",
            "local",
            "local",
            "local",
            "local",
            "local"
        ]);
        assert!(ModelConfig::parse(&config.to_string()).is_ok());
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert!(refusal(|c| c["n_heads"] = json!(5)).contains("n_heads (5)"));
        assert!(refusal(|c| c["n_kv_heads"] = json!(3)).contains("n_kv_heads (3)"));
        assert!(refusal(|c| c["n_layers"] = json!(9)).contains("entries of pattern"));
        assert!(refusal(|c| c["rope_harmonics"] = json!([1])).contains("rope_harmonics"));
        assert!(refusal(|c| c["stride"] = json!(255)).contains("stride (255)"));
        assert!(refusal(|c| c["conv_width"] = json!(0)).contains("conv_width is 0"));
        assert!(refusal(|c| c["rope_period"] = json!(128)).contains("pattern[0]"));
        assert!(refusal(|c| c["d_model"] = json!(1u64 << 40)).contains("d_model"));
        assert!(refusal(|c| c["sample_rate"] = json!(20)).contains("sample_rate is 20"));
        let vast = json!({"kind": "strided", "stride": 1 << 20, "rows": 64});
        assert!(refusal(|c| c["pattern"] = json!(vec![vast; 8])).contains("keys and values"));
        assert!(refusal(|c| c["norm_eps"] = json!(0.0)).contains("norm_eps"));
    }
}
