"""The bundled model follows a schedule of the prompt nodes: the frames of its clips are read one by one."""

import json


def test_a_prompt_that_switches_at_frame_8_is_seen_to_switch_there(part, host):
    nodes, changing = part("nodes"), part("t2v_core.training.evaluation.changing")
    plain_caption = part("t2v_core.training.clips.captions").plain_caption
    read_frames = part("t2v_core.training.evaluation.detect").read_frames
    settings = part("t2v_core.training.evaluation.evaluate").Settings(steps=6)
    given = {"steps": settings.steps, "cfg": settings.cfg, "sampler_name": settings.sampler}
    given |= {"scheduler": settings.scheduler, "denoise": 1.0, "guidance_rescale": 0.0}
    model, clip, vae = nodes.T2VLoadModel().load("bundled", "auto")["result"]
    (latent,) = nodes.T2VEmptyLatent().make(96, 96, 16)
    changes = changing.switch_list()
    followed = []
    for change in changes:
        text = json.dumps({"0": plain_caption(change.before), str(changing.AT): plain_caption(change.after)})
        positive, negative, _, _ = nodes.T2VPromptSchedule().encode(clip, text, 16, 8.0, "", "", "auto", "as written")
        (samples,) = nodes.T2VSampler().sample(model, change.seed, **given, positive=positive, negative=negative,
                                               latent_image=latent)  # fmt: skip
        (images,) = nodes.T2VDecode().decode(samples, vae, 0)
        followed.append(all(changing.switched(read_frames(images), change).values()))
    print(*(change for change, right in zip(changes, followed, strict=True) if not right), sep="\n")
    assert len(followed) == 20 and sum(followed) >= 16
