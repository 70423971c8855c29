"""What each artifact holds: every dataset with its axes, type and meaning, as plain declarations.

`artifact` holds files to these declarations when it writes and when it reads, and `docs/schema.md`
is held to them by a test. Nothing here touches a file.
"""

from fer_cli.storage.declarations import DatasetSpec, Format

LAYERS_AXIS_NOTE = "locations are flattened in C order of (x, y, z), z fastest"

VOXELS = Format(
    name="fer-voxels",
    version=1,
    command="fer voxelize",
    parents=(),
    datasets=(
        DatasetSpec(
            "occupancy",
            ("sample", "x", "y", "z"),
            "uint8",
            "1 where the shape occupies the voxel, else 0; z is up; absent where there is `intensity`",
            required=False,
            compressed=True,
        ),
        DatasetSpec(
            "intensity",
            ("sample", "channel", "x", "y", "z"),
            "float32",
            "voxel values of volumes that are no occupancy grids, as the network reads them, in the smallest of these "
            "types that holds every one exactly",
            required=False,
            compressed=True,
            narrower=("uint8", "int16", "uint16", "float16"),
        ),
        DatasetSpec("name", ("sample",), "text", "unique name of the sample"),
        DatasetSpec("label", ("sample",), "int64", "index into the attribute `classes`; −1 where unknown"),
        DatasetSpec("split", ("sample",), "text", "`train`, `val`, `test` or `unlabelled`"),
        DatasetSpec(
            "index_to_world",
            ("sample", "row", "column"),
            "float64",
            "4×4 affine map from voxel indices (voxel centres) to the source's own units",
        ),
        DatasetSpec(
            "placed",
            ("sample",),
            "int8",
            "1 where the file of a volume says where it lies (of NIfTI, `index_to_world` is then in mm along right, "
            "anterior and superior), else 0; absent where no file does",
            required=False,
        ),
        DatasetSpec("source", ("sample",), "text", "path of the shape inside the source"),
        DatasetSpec(
            "group",
            ("sample",),
            "text",
            "what the sample belongs to, such as its patient; no split divides a group; empty where it stands alone",
            required=False,
        ),
        DatasetSpec(
            "column/{column}",
            ("sample",),
            "text",
            "a further column of the table of samples, as it stands",
            required=False,
        ),
        DatasetSpec("record/n_faces", ("sample",), "int64", "triangles of the mesh as read; −1 for what is no mesh"),
        DatasetSpec(
            "record/n_open_edges",
            ("sample",),
            "int64",
            "edges of exactly one of the mesh's distinct triangles; −1 for what is no mesh",
        ),
        DatasetSpec("record/n_occupied", ("sample",), "int64", "occupied voxels; of intensities, values other than 0"),
        DatasetSpec(
            "record/extent",
            ("sample", "axis"),
            "int64",
            "how many voxels the occupied ones of a shape span along x, y and z; absent of volumes and in older files",
            required=False,
            derived=True,
        ),
        DatasetSpec(
            "record/n_stray",
            ("sample",),
            "int64",
            "vertices that no face uses, outside the bounding box of the faces; absent of volumes and in older files",
            required=False,
            derived=True,
        ),
        DatasetSpec(
            "record/enclosed",
            ("sample",),
            "int8",
            "1 if the fill `solid` enclosed a voxel, 0 if none; −1 with the fill `surface`",
        ),
        DatasetSpec(
            "record/warnings", ("sample",), "text", "faults of the mesh, with `; ` between them; empty if none"
        ),
        DatasetSpec(
            "record/duplicate_of",
            ("sample",),
            "int64",
            "the first sample whose grid is identical, voxel for voxel; −1 for the first itself",
        ),
        DatasetSpec("dropped/source", ("dropped",), "text", "path of a training shape left out as a duplicate"),
        DatasetSpec("dropped/duplicate_of", ("dropped",), "int64", "the sample that stays, identical to it"),
        DatasetSpec("skipped/source", ("skipped",), "text", "path of a shape that could not be used"),
        DatasetSpec("skipped/reason", ("skipped",), "text", "why it could not be used"),
    ),
)

MODEL = Format(
    name="fer-model",
    version=2,
    command="fer train",
    parents=("voxels",),
    datasets=(
        DatasetSpec(
            "encoder/{parameter}",
            None,
            "float32",
            "weights and batch-norm statistics of the feedforward network; of an attached one all its float32 state",
        ),
        DatasetSpec(
            "encoder64/{parameter}", None, "float64", "state of an attached network in double precision", required=False
        ),
        DatasetSpec(
            "encoder_int/{parameter}", None, "int64", "state of an attached network in whole numbers", required=False
        ),
        DatasetSpec(
            "field/{level}",
            None,
            "int64",
            "receptive field of each location of an attached network's level: axes x, y, z, the input's axis, and a "
            "half-open range of voxels",
            required=False,
        ),
        DatasetSpec(
            "check/logits",
            ("check", "class"),
            "float32",
            "an attached network's logits of two volumes of seeded noise, which code that builds it again must give",
            required=False,
            identifying=False,
        ),
        DatasetSpec(
            "feedback/{parameter}",
            None,
            "float32",
            "weights and batch-norm statistics of the feedback network",
        ),
        DatasetSpec(
            "validation/index",
            ("validation",),
            "int64",
            "samples of voxels.h5 held out of training for validation and calibration",
        ),
        DatasetSpec(
            "history",
            ("line",),
            "text",
            "CSV, a heading and one line an epoch: `phase` (`feedforward` or `feedback`), `epoch` from 1, mean "
            "`training_loss` over the epoch's samples and the terms it is the sum of (`class_loss`; `voxel_loss`, "
            "`feature_loss`), mean `validation_loss`, and `validation_score` on the validation samples: accuracy "
            "(feedforward) or voxel IoU of the local reconstruction (feedback)",
        ),
        DatasetSpec("seconds", ("epoch",), "float64", "wall time of each epoch, seconds", identifying=False),
    ),
    optional_parents=("encoder", "pretrained"),
)

CHECKPOINT = Format(
    name="fer-checkpoint",
    version=2,
    command="fer train",
    parents=("voxels",),
    datasets=(
        DatasetSpec("encoder/{parameter}", None, "float32", "the finished feedforward network, while feedback trains"),
        DatasetSpec("weights/{parameter}", None, "float32", "the network in training"),
        DatasetSpec("average/{parameter}", None, "float32", "its exponential moving average"),
        DatasetSpec("moment1/{parameter}", None, "float32", "AdamW's running mean of the gradient"),
        DatasetSpec("moment2/{parameter}", None, "float32", "AdamW's running mean of the squared gradient"),
        DatasetSpec(
            "generator/{generator}",
            ("byte",),
            "uint8",
            "state of a random generator within an epoch: `epoch`, the epoch's own, and `global`, PyTorch's",
            required=False,
        ),
        *(spec for spec in MODEL.datasets if spec.name in ("history", "seconds")),
    ),
    optional_parents=("encoder", "pretrained"),
)

_PATH_NOTE = "`{path}` is `feedforward` or `feedback`; " + LAYERS_AXIS_NOTE

_CALIBRATION_DATASETS = (
    DatasetSpec("calibration/index", ("validation",), "int64", "validation samples, indices into voxels.h5"),
    DatasetSpec("calibration/label", ("validation",), "int64", "their classes"),
    DatasetSpec("calibration/predicted", ("validation",), "int64", "the classes the network gave them"),
    DatasetSpec(
        "calibration/score/{score}",
        ("validation",),
        "float64",
        "a confidence score of each validation sample; high means trustworthy",
    ),
    DatasetSpec(
        "calibration/error/{error}",
        ("validation",),
        "float64",
        "one of Table I's errors of each validation sample: squared differences summed over voxels",
    ),
    DatasetSpec("calibration/probability", ("validation", "class"), "float32", "their class probabilities"),
    DatasetSpec(
        "calibration/evidence/{path}/{layer}",
        ("validation", "class"),
        "float32",
        "their class evidence at each layer below the output, nats, summed over locations",
    ),
    DatasetSpec(
        "calibration/distance/{layer}",
        ("validation",),
        "float64",
        "summed squared distance of their feedforward features to the chosen centroids, each layer below the output",
    ),
    DatasetSpec(
        "calibration/return_error/{layer}",
        ("validation",),
        "float64",
        "summed squared distance between their feedforward feature below a layer (the input below the lowest) and "
        "what one step of the feedback network makes of the layer's own",
        required=False,
    ),
    DatasetSpec(
        "calibration/view_probability",
        ("validation", "class"),
        "float32",
        "their mean class probabilities over views",
        required=False,
    ),
    DatasetSpec(
        "calibration/neighbour_distance",
        ("validation", "class"),
        "float32",
        "their mean distance to the three nearest training samples of each class, by `training/code`; infinite where "
        "the class has none",
        required=False,
    ),
    DatasetSpec(
        "calibration/neighbour_vote",
        ("validation", "class"),
        "float32",
        "share of each class in their 15 nearest training samples",
        required=False,
    ),
)

CODEBOOK = Format(
    name="fer-codebook",
    version=3,
    command="fer cluster",
    parents=("voxels", "model"),
    datasets=(
        DatasetSpec(
            "{path}/{layer}/centroid",
            ("{layer}.location", "{layer}.code", "{layer}.filter"),
            "float32",
            "k-means centroids, the first `n_codes` of a location; " + _PATH_NOTE,
        ),
        DatasetSpec(
            "{path}/{layer}/histogram",
            ("{layer}.location", "{layer}.code", "class"),
            "int32",
            "training samples of each class that a code holds; its sum over classes is the code's count",
            compressed=True,
        ),
        DatasetSpec(
            "{path}/{layer}/exemplar",
            ("{layer}.location", "{layer}.code"),
            "int32",
            "sample of voxels.h5 nearest to the centroid among those it holds; −1 for an empty code",
            compressed=True,
        ),
        DatasetSpec(
            "{path}/{layer}/inertia",
            ("{layer}.location",),
            "float64",
            "summed squared distance of the training samples to their centroids",
        ),
        DatasetSpec(
            "{path}/{layer}/scatter",
            ("{layer}.location",),
            "float64",
            "summed squared distance of the training samples to their mean",
        ),
        DatasetSpec(
            "{path}/{layer}/n_codes",
            ("{layer}.location",),
            "int32",
            "codes of a location; less than `k` where its vectors are too few; the other centroids are zeros",
        ),
        DatasetSpec(
            "{path}/{layer}/n_distinct",
            ("{layer}.location",),
            "int32",
            "vectors, of those that the codes were fitted on, that half precision tells apart",
        ),
        DatasetSpec(
            "{path}/{layer}/n_dead",
            ("{layer}.location",),
            "int32",
            "filters that are zero, in half precision, for every sample that the codes were fitted on",
        ),
    ),
    older=(2,),
    older_datasets=_CALIBRATION_DATASETS,
)

CALIBRATION = Format(
    name="fer-calibration",
    version=1,
    command="fer calibrate",
    parents=("voxels", "model", "codebook"),
    datasets=(
        *_CALIBRATION_DATASETS,
        DatasetSpec(
            "training/index", ("training",), "int64", "clustered samples, indices into voxels.h5", required=False
        ),
        DatasetSpec(
            "training/code",
            ("training", "location"),
            "uint16",
            "the feedforward code that each of them has at the local layer; " + LAYERS_AXIS_NOTE,
            compressed=True,
            required=False,
        ),
        DatasetSpec(
            "training/statistic",
            ("training", "statistic"),
            "float64",
            "plain statistics of each of their volumes, in the order of `data.statistics.statistic_names`",
            required=False,
        ),
        DatasetSpec(
            "training/outlyingness",
            ("reference",),
            "float64",
            "distance to the nearest others by these statistics, in standard deviations, of all or of 5,000 samples",
            required=False,
        ),
    ),
)

FORMATS = {form.name: form for form in (VOXELS, MODEL, CHECKPOINT, CODEBOOK, CALIBRATION)}
