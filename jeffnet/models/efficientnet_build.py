"""From the stages of EfficientNet and its relatives, and a network's multipliers, to blocks, widths and strides."""

from collections.abc import Callable

from jeffnet.core.block import Block
from jeffnet.models.efficientnet_stages import Run, Stages
from jeffnet.models.mobile_blocks import ConvBnAct, DepthwiseSeparable, EdgeResidual, UniversalInvertedResidual
from jeffnet.models.mobile_squeeze import divisible


def stem_width(model) -> int:
    """Channels of the stem."""
    return model.stem if model.fixed_stem or model.fixed_ends else model.rounded(model.stem)


def head_width(model) -> int:
    """Channels of the head, or of the last stage if there is none."""
    if not model.features:
        return model.rounded(model.stages[-1][-1].features)
    return model.rounded(model.features) if model.scale_head else model.features


def build_stages(model) -> list[list[Block]]:
    """The blocks of a network, stage by stage, at its width, depth and output stride."""
    runs = []  # per stage, one run for each block
    for i, stage in enumerate(model.stages):
        fixed = model.fixed_ends and i in (0, len(model.stages) - 1)
        repeats = scaled_repeats(stage, 1.0 if fixed else model.depth, model.depth_rounding)
        runs.append([run for run, n in zip(stage, repeats, strict=True) for _ in range(n)])
    total, index, width, deep = sum(map(len, runs)), 0, stem_width(model), False
    stages = []
    for stage, (stride, first_dilation, dilation, _) in zip(
        runs, strides(model.stages, model.output_stride), strict=True
    ):
        stages.append([])
        for i, run in enumerate(stage):
            options = {'stride': 1 if i else stride, 'dilation': dilation if i else first_dilation}
            options |= {'drop_rate': model.drop_path_rate * index / total}
            # The first block behind those in space-to-depth form expands the width that they would have without.
            source = width // 4 if deep and not run.space_to_depth else width
            stages[-1].append(build_block(model, run, width, source, options))
            width, index, deep = stages[-1][-1].out_features, index + 1, run.space_to_depth
    return stages


def build_block(model, run: Run, width: int, source: int, options: dict) -> Block:
    """One block of a run, at the network's width multiplier, whose middle is a multiple of `source`."""
    act, out = run.act or model.act, model.rounded(run.features) * (4 if run.space_to_depth else 1)
    options |= {'out_features': out, 'kernel_size': run.kernel_size, 'act': act, 'skip': run.skip}
    options |= {'norm': model.norm, 'pool': model.pool}
    if run.block is ConvBnAct:
        return ConvBnAct(width, **options)
    if run.expand_from:
        source = model.rounded(run.expand_from)
    mid = width if run.block is DepthwiseSeparable else divisible(source * run.expand)
    if run.se:
        options['squeeze'] = model.squeeze(width, mid, run.se, act)
    if run.block is DepthwiseSeparable:
        options |= {'act_last': run.act_last, 'group_size': model.group_size}
        options |= {'padding': ((0, 1), (0, 1)) if model.pad_end and options['stride'] > 1 else None}
        return DepthwiseSeparable(width, space_to_depth=run.space_to_depth and options['stride'] > 1, **options)
    options |= {'mid_features': mid}
    if run.block is EdgeResidual:
        options |= {'group_size': run.group_size, 'stride_in_projection': model.stride_in_projection}
    elif run.block is UniversalInvertedResidual:
        options |= {'start_kernel': run.start_kernel}
    else:
        options |= {'expand_kernel': (1, 1) if run.grouped_expand else 1, 'group_size': model.group_size}
        options |= {'project_kernel': (1, 1) if run.grouped_project else 1}
    return run.block(width, **options)


def scaled_repeats(stage: tuple[Run, ...], depth: float, rounding: Callable) -> list[int]:
    """Repeats of the runs of a stage at a depth multiplier; the last runs grow first."""
    repeats, left = [], sum(run.repeats for run in stage)
    total = max(1, rounding(left * depth))
    for run in reversed(stage):
        repeats.insert(0, max(1, round(run.repeats / left * total)))
        left, total = left - run.repeats, total - repeats[0]
    return repeats


def strides(stages: Stages, output_stride: int) -> list[tuple[int, int, int, int]]:
    """Per stage: stride and dilation of the first block, dilation of the rest, total stride.

    Where the total would exceed `output_stride`, the stride becomes a dilation of the blocks that follow.
    """
    found, total, dilation = [], 2, 1
    for stage in stages:
        stride, before = stage[0].stride, dilation
        if total * stride > output_stride:
            stride, dilation = 1, dilation * stride
        total *= stride
        found.append((stride, before, dilation, total))
    return found
