"""Tiny random detectors and CLIPSeg, saved in the layouts that people have; pictures; a detector and a SAM that say what they are told."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pack.segmentation.boxes import Box
from pack.segmentation.sam_prompt import Prompt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SIZE = 64
WORDS = ("person", "face", "hair", "a", "cat", "red", "shirt", "woman")
# As Microsoft's processing_florence2.py adds them.
PAIRS = ("cap", "ncap", "dcap", "grounding", "seg")
LATE_PAIRS = ("region_cap", "region_to_desciption", "proposal", "poly")
FLORENCE_TOKENS = [
    "<od>", "</od>", "<ocr>", "</ocr>", *(f"<loc_{x}>" for x in range(1000)),
    *(token for one in PAIRS for token in (f"<{one}>", f"</{one}>")),
    "<sep>", *(token for one in LATE_PAIRS for token in (f"<{one}>", f"</{one}>")), "<and>"]



def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """A random uint8 picture (H, W, 3)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def _bytes() -> list[str]:
    """The 256 signs of byte-level tokenizers."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs, hidden = list(map(chr, shown)), [byte for byte in range(256) if byte not in shown]
    return signs + [chr(256 + number) for number in range(len(hidden))]


def save_grounding(folder: Path, *, mm: bool = False) -> None:
    import transformers as t

    signs = [sign for one in "abcdefghijklmnopqrstuvwxyz0123456789" for sign in (one, f"##{one}")]
    known = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", *WORDS, *signs])
    tokenizer = t.BertTokenizer(vocab={token: number for number, token in enumerate(known)})
    config: Any = (t.MMGroundingDinoConfig if mm else t.GroundingDinoConfig)(
        backbone_config=t.SwinConfig(image_size=SIZE, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2,
                                     out_indices=[2, 3, 4]),
        text_config=t.BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=16, max_position_embeddings=64),
        num_queries=20, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, d_model=64, max_text_len=32)
    torch.manual_seed(0)
    model: Any = (t.MMGroundingDinoForObjectDetection if mm else t.GroundingDinoForObjectDetection)(config)
    with torch.no_grad():  # as they come, all boxes have one size, and all scores lie together
        for name, value in model.named_parameters():
            if "bbox_embed" in name or "text_projection" in name:
                value.normal_(std=0.3)
    model.save_pretrained(folder)
    pictures = t.GroundingDinoImageProcessor(size={"shortest_edge": SIZE, "longest_edge": 2 * SIZE})
    t.GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)


def save_grounding_file(folder: Path, file: Path) -> None:
    """One network twice: as transformers saves it, and under the original names, as convert_grounding_dino_to_hf.py lists them."""
    import transformers as t

    save_grounding(folder)
    config: Any = t.GroundingDinoConfig(
        backbone_config=t.SwinConfig(image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2],
                                     window_size=2, out_indices=[2, 3, 4]),
        text_config=t.BertConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=16,
                                 max_position_embeddings=64),
        num_queries=20, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=24, d_model=64)
    model: Any = t.GroundingDinoForObjectDetection(config)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)
    model.save_pretrained(folder)
    left = {name: value for name, value in load_file(folder / "model.safetensors").items() if ".swin.layernorm." not in name}  # unused
    weights: dict[str, Tensor] = {"label_enc.weight": torch.zeros(1), "bert.embeddings.position_ids": torch.zeros(1)}

    def take(old: str, new: str, kinds: Sequence[str] = (".weight", ".bias")) -> None:
        for kind in kinds:
            weights[old + kind] = left.pop(new + kind)

    def join(old: str, new: str) -> None:
        for kind in ("weight", "bias"):
            weights[old + kind] = torch.cat([left.pop(f"{new}.{part}.{kind}") for part in ("query", "key", "value")])

    swin = "model.backbone.conv_encoder.model."
    take("backbone.0.patch_embed.proj", swin + "embeddings.patch_embeddings.projection")
    take("backbone.0.patch_embed.norm", swin + "embeddings.norm")
    for layer, depth in enumerate((1, 1, 2, 1)):
        for block in range(depth):
            old, new = f"backbone.0.layers.{layer}.blocks.{block}.", f"{swin}encoder.layers.{layer}.blocks.{block}."
            for one, other in (("norm1", "layernorm_before"), ("norm2", "layernorm_after"), ("attn.proj", "attention.output.dense"),
                               ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")):
                take(old + one, new + other)
            take(old + "attn", new + "attention.self", [".relative_position_bias_table"])
            join(old + "attn.qkv.", new + "attention.self")
            weights[old + "attn.relative_position_index"] = torch.zeros(4, 4)
        if layer < 3:
            take(f"backbone.0.layers.{layer}.downsample.reduction", f"{swin}encoder.layers.{layer}.downsample.reduction", [".weight"])
            take(f"backbone.0.layers.{layer}.downsample.norm", f"{swin}encoder.layers.{layer}.downsample.norm")
    for stage in (2, 3, 4):
        take(f"backbone.0.norm{stage - 1}", f"{swin}hidden_states_norms.stage{stage}")
    for layer in range(2):
        new = f"model.encoder.layers.{layer}."
        sampled = [(f"self_attn.{name}",) * 2 for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")]
        for one, other in (*sampled, ("norm1", "self_attn_layer_norm"), ("linear1", "fc1"), ("linear2", "fc2"),
                           ("norm2", "final_layer_norm")):
            take(f"transformer.encoder.layers.{layer}.{one}", f"{new}deformable_layer.{other}")
        old = f"transformer.encoder.text_layers.{layer}."
        for one, other in (("self_attn.out_proj", "self_attn.out_proj"), ("linear1", "fc1"), ("linear2", "fc2"),
                           ("norm1", "layer_norm_before"), ("norm2", "layer_norm_after")):
            take(old + one, f"{new}text_enhancer_layer.{other}")
        join(old + "self_attn.in_proj_", f"{new}text_enhancer_layer.self_attn")
        old = f"transformer.encoder.fusion_layers.{layer}."
        for sign, name in (("v", "vision"), ("l", "text")):
            take(old + f"gamma_{sign}", f"{new}fusion_layer.{name}_param", [""])
            take(old + f"layer_norm_{sign}", f"{new}fusion_layer.layer_norm_{name}")
            for one, other in ((f"{sign}_proj", f"{name}_proj"), (f"values_{sign}_proj", f"values_{name}_proj"),
                               (f"out_{sign}_proj", f"out_{name}_proj")):
                take(f"{old}attn.{one}", f"{new}fusion_layer.attn.{other}")
        old, new = f"transformer.decoder.layers.{layer}.", f"model.decoder.layers.{layer}."
        sampled = [(f"cross_attn.{name}", f"encoder_attn.{name}")
                   for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")]
        for one, other in (*sampled, ("norm1", "encoder_attn_layer_norm"), ("ca_text.out_proj", "encoder_attn_text.out_proj"),
                           ("catext_norm", "encoder_attn_text_layer_norm"), ("self_attn.out_proj", "self_attn.out_proj"),
                           ("norm2", "self_attn_layer_norm"), ("linear1", "fc1"), ("linear2", "fc2"), ("norm3", "final_layer_norm")):
            take(old + one, new + other)
        join(old + "ca_text.in_proj_", new + "encoder_attn_text")
        join(old + "self_attn.in_proj_", new + "self_attn")
    take("transformer.level_embed", "model.level_embed", [""])
    take("transformer.decoder.norm", "model.decoder.layer_norm")
    take("transformer.tgt_embed", "model.query_position_embeddings", [".weight"])
    starts = {"model.text_backbone": "bert", "model.input_proj_vision": "input_proj", "model.text_projection": "feat_map",
              "model.decoder.reference_points_head": "transformer.decoder.ref_point_head", "bbox_embed": "bbox_embed",
              "model.decoder.bbox_embed": "transformer.decoder.bbox_embed", "model.enc_output": "transformer.enc_output",
              "model.encoder_output_bbox_embed": "transformer.enc_out_bbox_embed"}
    for name, value in left.items():
        [start] = [start for start in starts if name.startswith((start + ".", start + "_"))]
        weights[starts[start] + name.removeprefix(start)] = value
    for number in range(2):  # the original file has the shared heads everywhere
        weights |= {name.replace("bbox_embed.0.", f"bbox_embed.{number}."): value for name, value in list(weights.items())
                    if "bbox_embed.0." in name}
        weights |= {f"transformer.decoder.{name}": value for name, value in list(weights.items()) if name.startswith("bbox_embed.")}
    torch.save({"model": {f"module.{name}": value for name, value in weights.items()}}, file)


def _bart(**more: Any) -> Any:
    import transformers as t

    tokens = ["<s>", "<pad>", "</s>", "<unk>", *_bytes(), "<mask>"]
    return t.BartTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], **more)


def save_florence(folder: Path) -> nn.Module:
    """As transformers saves it: the extra tokens in the tokenizer, then one for the picture."""
    import transformers as t

    tokenizer = _bart()
    tokenizer.add_tokens(FLORENCE_TOKENS, special_tokens=True)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    tokenizer = t.BartTokenizer.from_pretrained(folder, extra_special_tokens={"image_token": "<image>"})
    config: Any = t.Florence2Config(
        text_config=t.BartConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=128, bos_token_id=0,
            pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_bos_token_id=0, forced_eos_token_id=2,
            tie_word_embeddings=True),
        vision_config=t.Florence2VisionConfig(
            depths=(1, 1, 1, 1), embed_dim=(8, 16, 32, 64), num_heads=(1, 1, 2, 2), num_groups=(1, 1, 2, 2), window_size=2,
            projection_dim=16, max_position_embeddings=8, max_temporal_embeddings=4),
        image_token_id=len(tokenizer) - 1, tie_word_embeddings=True)
    torch.manual_seed(0)
    model: Any = t.Florence2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)
    model.save_pretrained(folder)
    pictures = t.CLIPImageProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False, image_mean=[0.485, 0.456, 0.406],
                                    image_std=[0.229, 0.224, 0.225])
    pictures.image_seq_length = (SIZE // 32) ** 2 + 1
    tasks: dict[str, Any] = {"phrase_grounding": {"banned_grounding_tokens": ["it"]}, "description_with_bboxes_or_polygons": {}}
    t.Florence2Processor(pictures, tokenizer, post_processor_config=tasks).save_pretrained(folder)
    return model  # type: ignore[no-any-return]


def save_florence_as_microsoft(folder: Path, native: nn.Module, *, pickled: bool = False) -> None:
    """The same weights as Microsoft publishes them, without the picture's token.

    The names are those of transformers' convert_florence2_original_pytorch_to_hf.py, layer by layer.
    """
    folder.mkdir(parents=True)
    ours = {name: value.clone() for name, value in native.state_dict().items()}
    vocabulary = ours["lm_head.weight"].shape[0] - 1
    weights = {"image_projection": ours["model.multi_modal_projector.image_projection.weight"].T.contiguous(),
               "language_model.final_logits_bias": torch.zeros(1, vocabulary)}
    pairs = [("visual_temporal_embed.pos_idx_to_embed", "model.multi_modal_projector.visual_temporal_embed.pos_idx_to_embed"),
             *((f"image_proj_norm.{kind}", f"model.multi_modal_projector.image_proj_norm.{kind}") for kind in ("weight", "bias")),
             *((f"image_pos_embed.{side}_embeddings.weight", f"model.multi_modal_projector.image_position_embed.{side}_embeddings.weight")
               for side in ("row", "column"))]
    for stage in range(4):
        for kind in ("weight", "bias"):
            pairs += [(f"vision_tower.convs.{stage}.{old}.{kind}", f"model.vision_tower.convs.{stage}.{new}.{kind}")
                      for old, new in (("proj", "conv"), ("norm", "norm"))]
            for block, attention in (("spatial_block", "window_attn"), ("channel_block", "channel_attn")):
                place = f"vision_tower.blocks.{stage}.0.{block}"
                pairs += [(f"{place}.{old}.{kind}", f"model.{place}.{new}.{kind}")
                          for old, new in (("conv1.fn.dw", "conv1"), ("conv2.fn.dw", "conv2"), (f"{attention}.norm", "norm1"),
                                           (f"{attention}.fn.qkv", f"{attention}.qkv"), (f"{attention}.fn.proj", f"{attention}.proj"),
                                           ("ffn.norm", "norm2"), ("ffn.fn.net.fc1", "ffn.fc1"), ("ffn.fn.net.fc2", "ffn.fc2"))]
    weights |= {old: ours[new] for old, new in pairs}
    for name, value in ours.items():
        if name.startswith("model.language_model.") and not name.endswith("embed_tokens.weight"):
            weights["language_model.model." + name.removeprefix("model.language_model.")] = value
    shared = ours["model.language_model.shared.weight"][:vocabulary].clone()
    weights["language_model.model.shared.weight"] = shared
    if pickled:
        torch.save(weights | {f"language_model.{name}.weight": shared for name in (
            "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")}, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    sight = {"model_type": "davit", "drop_path_rate": 0.1, "patch_size": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2],
             "patch_padding": [3, 1, 1, 1], "patch_prenorm": [False, True, True, True], "enable_checkpoint": False,
             "dim_embed": [8, 16, 32, 64], "num_heads": [1, 1, 2, 2], "num_groups": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "window_size": 2,
             "projection_dim": 16, "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 4},
             "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 8},
             "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"]}
    text = {"vocab_size": vocabulary, "model_type": "florence2_language", "torch_dtype": "float16", "is_encoder_decoder": True,
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 128, "bos_token_id": 0, "pad_token_id": 1,
            "eos_token_id": 2, "decoder_start_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "dropout": 0.1,
            "early_stopping": True, "no_repeat_ngram_size": 3, "num_beams": 3, "normalize_before": False, "classif_dropout": 0.1,
            "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "add_bias_logits": False, "add_final_layer_norm": False,
            "activation_function": "gelu", "gradient_checkpointing": False, "scale_embedding": False, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps({
        "_name_or_path": "florence2", "architectures": ["Florence2ForConditionalGeneration"], "model_type": "florence2",
        "auto_map": {"AutoConfig": "configuration_florence2.Florence2Config"}, "projection_dim": 16, "vocab_size": vocabulary,
        "vision_config": sight, "text_config": text, "torch_dtype": "float16"}))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "auto_map": {"AutoProcessor": "processing_florence2.Florence2Processor"}, "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor", "do_resize": True, "do_center_crop": False, "do_normalize": True, "do_rescale": True,
        "image_seq_length": (SIZE // 32) ** 2 + 1, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3,
        "size": {"height": SIZE, "width": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}))
    _bart().save_pretrained(folder)


def save_clipseg(folder: Path) -> None:
    import transformers as t

    signs = _bytes()
    tokens = [*signs, *(sign + "</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = t.CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=77)
    config: Any = t.CLIPSegConfig(
        text_config=t.CLIPSegTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id),
        vision_config=t.CLIPSegVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=SIZE, patch_size=16),
        projection_dim=16, reduce_dim=16, extract_layers=[0, 1, 2], decoder_num_attention_heads=2, decoder_intermediate_size=16)
    torch.manual_seed(0)
    model: Any = t.CLIPSegForImageSegmentation(config)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.3)
    model.save_pretrained(folder)
    t.CLIPSegProcessor(t.ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.485, 0.456, 0.406],
                                           image_std=[0.229, 0.224, 0.225]), tokenizer).save_pretrained(folder)


@dataclass
class Told:
    """A detector that finds what it was told, if it is asked for, and notes what it was asked."""

    boxes: Sequence[Box]
    asked: list[list[str]] = field(default_factory=list)
    name: str = "told"
    module: nn.Module = field(default_factory=nn.Identity)

    def find(self, picture_HWC: Tensor, phrases: Sequence[str], threshold: float = 0.3, text_threshold: float = 0.25) -> list[Box]:
        self.asked.append(list(phrases))
        return [box for box in self.boxes if box.label in phrases and box.score > threshold]


@dataclass
class Reader(Told):
    """One that reads captions, too."""

    def ground(self, picture_HWC: Tensor, caption: str) -> list[Box]:
        self.asked.append([caption])
        return list(self.boxes)


@dataclass
class HalfBoxes:
    """A SAM whose mask is 0.5 in the boxes; one that reads text finds each phrase twice, in the first and in the last row."""

    reads_text: bool = False
    name: str = "half boxes"
    cut: bool = False
    asked: list[object] = field(default_factory=list)

    def masks(self, picture_HWC: Tensor, prompts: Sequence[Prompt]) -> list[Tensor]:
        self.asked.append(list(prompts))
        masks = []
        for prompt in prompts:
            mask_HW = torch.zeros(picture_HWC.shape[:2])
            for box in prompt.boxes:
                left, top, right, bottom = map(int, box.corners)
                mask_HW[top:bottom, left:right] = 0.5
            masks.append(mask_HW)
        return masks

    def from_text(self, picture_HWC: Tensor, phrase: str) -> list[Tensor]:
        return next(self.from_texts(picture_HWC, [phrase]))

    def from_texts(self, picture_HWC: Tensor, phrases: Sequence[str], most: int | None = None, cut: bool = False
                   ) -> Iterator[list[Tensor]]:
        self.asked.append(list(phrases))
        self.cut = cut
        masks = torch.zeros(2, *picture_HWC.shape[:2])
        masks[0, 0] = masks[1, -1] = 0.5
        return iter([[] if phrase == "unicorn" else list(masks)[:most] for phrase in phrases])
