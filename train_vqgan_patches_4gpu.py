"""Train the VQ-GAN (stage 1). Launched by launch_vqgan_patches_4gpu.sh."""

from omegaconf import DictConfig

from pipeline.cli import script


@script("train_vqgan")
def main(cfg: DictConfig) -> None:
    from pipeline.training import (  # here: they load for seconds, which mistakes and --help need not wait for
        run,
        stages,
    )

    run.run(cfg, stages.build_vqgan)


if __name__ == "__main__":
    main()
